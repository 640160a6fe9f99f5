#include "weightd/service/weight_service.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/daemon/client_identity.h"
#include "common/grpc_status/status.h"
#include "common/log/log.h"
#include "weightd/manifest/manifest.h"
#include "weightd/service/attach_stream.h"
#include "weightd/service/block_stream.h"
#include "weightd/service/model_status.h"
#include "weightd/service/page_token.h"
#include "weightd/service/read_stream.h"
#include "weightd/service/verify_stream.h"

namespace gguf_offload {
namespace {

constexpr int kPageSize = 1000;

// Ends a call that was not let in.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  explicit Refused(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

absl::Status ListTensorsPage(const store::ModelStore& store, const v1::ListTensorsRequest& request,
                             v1::ListTensorsResponse& response) {
  if (request.page_size() < 0) return absl::InvalidArgumentError("page_size is negative");
  auto model = store.Find(request.model());
  if (!model.ok()) return model.status();
  const uint64_t count = (*model)->tensors().size();
  const uint64_t generation = (*model)->generation();
  const auto first = ReadPageToken(request.page_token(), generation, count);
  if (!first.ok()) return first.status();
  const int size = request.page_size() == 0 ? kPageSize : std::min(request.page_size(), kPageSize);
  const uint64_t end = *first + std::min<uint64_t>(count - *first, static_cast<uint64_t>(size));
  for (uint64_t i = *first; i < end; ++i) *response.add_tensors() = BuildTensorInfo(**model, i);
  if (end < count) response.set_next_page_token(MakePageToken(generation, end));
  return absl::OkStatus();
}

absl::Status DescribeModel(const store::ModelStore& store, const v1::GetModelRequest& request,
                           v1::GetModelResponse& response) {
  const auto status = store.Status(request.model());
  if (!status.ok()) return status.status();
  *response.mutable_status() = ToProto(*status);
  // A model that failed or is quarantined has a status that says why, but no manifest.
  if (const auto model = store.Find(request.model()); model.ok()) {
    *response.mutable_manifest() =
        BuildManifest(**model, {.elide_long_arrays = !request.include_arrays(), .tensors = false});
  }
  return absl::OkStatus();
}

absl::Status LoadAs(store::ModelStore& store, const v1::LoadModelRequest& request,
                    v1::LoadModelResponse& response) {
  const auto residency = FromProto(request.residency());
  if (!residency.ok()) return residency.status();
  const auto model = store.Load(request.model(), request.path(), *residency);
  Log(model.ok() ? LogLevel::kInfo : LogLevel::kWarning, "load requested",
      {{"model", request.model()}, {"path", request.path()}, {"status", model.status()}});
  if (!model.ok()) return model.status();
  const auto status = store.Status(request.model());
  if (!status.ok()) return status.status();
  *response.mutable_status() = ToProto(*status);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* WeightService::Run(grpc::CallbackServerContext* context,
                                             std::function<absl::Status()> method) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::StatusOr<CallGate::Pass> pass = core_->gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) {
    reactor->Finish(ToGrpc(pass.status()));
    return reactor;
  }
  // Shared because std::function wants to be copied.
  auto held = std::make_shared<CallGate::Pass>(*std::move(pass));
  core_->work.Post([reactor, method = std::move(method), held = std::move(held)] {
    reactor->Finish(ToGrpc(method()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* WeightService::ListModels(grpc::CallbackServerContext* context,
                                                    const v1::ListModelsRequest*,
                                                    v1::ListModelsResponse* response) {
  return Run(context, [this, response] {
    for (const store::ModelStatus& status : core_->store->List()) {
      *response->add_models() = ToProto(status);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* WeightService::GetModel(grpc::CallbackServerContext* context,
                                                  const v1::GetModelRequest* request,
                                                  v1::GetModelResponse* response) {
  return Run(context, [=, this] { return DescribeModel(*core_->store, *request, *response); });
}

grpc::ServerUnaryReactor* WeightService::ListTensors(grpc::CallbackServerContext* context,
                                                     const v1::ListTensorsRequest* request,
                                                     v1::ListTensorsResponse* response) {
  return Run(context, [=, this] { return ListTensorsPage(*core_->store, *request, *response); });
}

grpc::ServerUnaryReactor* WeightService::LoadModel(grpc::CallbackServerContext* context,
                                                   const v1::LoadModelRequest* request,
                                                   v1::LoadModelResponse* response) {
  return Run(context, [=, this]() -> absl::Status {
    if (!core_->options.loading_allowed && !request->path().empty()) {
      return absl::PermissionDeniedError(
          "no folder to load models from was given to the daemon (flag --allow-load-from)");
    }
    return LoadAs(*core_->store, *request, *response);
  });
}

grpc::ServerUnaryReactor* WeightService::UnloadModel(grpc::CallbackServerContext* context,
                                                     const v1::UnloadModelRequest* request,
                                                     v1::UnloadModelResponse* response) {
  return Run(context, [=, this] {
    const absl::StatusOr<uint32_t> leases = core_->store->Unload(request->model());
    if (leases.ok()) response->set_leases(*leases);
    return leases.status();
  });
}

grpc::ServerWriteReactor<v1::VerifyModelResponse>* WeightService::VerifyModel(
    grpc::CallbackServerContext* context, const v1::VerifyModelRequest* request) {
  absl::StatusOr<CallGate::Pass> pass = core_->gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) {
    return new Refused<grpc::ServerWriteReactor<v1::VerifyModelResponse>>(pass.status());
  }
  return VerifyStream::Start(core_, *request, *std::move(pass));
}

grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* WeightService::Attach(
    grpc::CallbackServerContext* context) {
  absl::StatusOr<CallGate::Pass> pass = core_->gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) {
    return new Refused<grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>>(
        pass.status());
  }
  return AttachStream::Start(core_, context, *std::move(pass));
}

grpc::ServerWriteReactor<v1::ReadBlocksResponse>* WeightService::ReadBlocks(
    grpc::CallbackServerContext* context, const v1::ReadBlocksRequest* request) {
  absl::StatusOr<CallGate::Pass> pass = core_->gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) {
    return new Refused<grpc::ServerWriteReactor<v1::ReadBlocksResponse>>(pass.status());
  }
  return ReadStream::Start(core_, context, *request, *std::move(pass));
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* WeightService::StreamBlocks(
    grpc::CallbackServerContext* context) {
  absl::StatusOr<CallGate::Pass> pass = core_->gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) {
    return new Refused<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>>(pass.status());
  }
  return BlockStream::Start(core_, context, *std::move(pass));
}

}  // namespace gguf_offload
