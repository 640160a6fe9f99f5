#include "weightd/service/model_status.h"

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

v1::ModelState StateToProto(store::ModelState state) {
  switch (state) {
    case store::ModelState::kLoading:
      return v1::MODEL_STATE_LOADING;
    case store::ModelState::kReady:
      return v1::MODEL_STATE_READY;
    case store::ModelState::kFailed:
      return v1::MODEL_STATE_FAILED;
    case store::ModelState::kQuarantined:
      return v1::MODEL_STATE_QUARANTINED;
  }
  return v1::MODEL_STATE_UNSPECIFIED;
}

v1::Residency ResidencyToProto(store::Residency residency) {
  switch (residency) {
    case store::Residency::kLazy:
      return v1::RESIDENCY_LAZY;
    case store::Residency::kWarm:
      return v1::RESIDENCY_WARM;
    case store::Residency::kLock:
      return v1::RESIDENCY_LOCK;
  }
  return v1::RESIDENCY_UNSPECIFIED;
}

}  // namespace

v1::ModelStatus ToProto(const store::ModelStatus& status) {
  v1::ModelStatus proto;
  proto.set_name(status.name);
  proto.set_state(StateToProto(status.state));
  proto.set_error(status.error);
  proto.set_path(status.path);
  proto.set_generation(status.generation);
  proto.set_architecture(status.architecture);
  proto.set_tensor_count(status.tensor_count);
  proto.set_bytes(status.bytes);
  proto.set_shard_count(status.shard_count);
  proto.set_residency(ResidencyToProto(status.residency));
  proto.set_residency_note(status.residency_note);
  proto.set_modified_in_place(status.modified_in_place);
  proto.set_populated_bytes(status.populated_bytes);
  proto.set_leases(status.leases);
  for (const uint64_t generation : status.old_generations) {
    proto.add_old_generations(generation);
  }
  return proto;
}

absl::StatusOr<std::optional<store::Residency>> FromProto(v1::Residency residency) {
  switch (residency) {
    case v1::RESIDENCY_UNSPECIFIED:
      return std::nullopt;
    case v1::RESIDENCY_LAZY:
      return store::Residency::kLazy;
    case v1::RESIDENCY_WARM:
      return store::Residency::kWarm;
    case v1::RESIDENCY_LOCK:
      return store::Residency::kLock;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("unknown residency ", static_cast<int>(residency)));
  }
}

}  // namespace gguf_offload
