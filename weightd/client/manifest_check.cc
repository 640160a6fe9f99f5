#include "weightd/client/manifest_check.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {

absl::Status CheckRange(const v1::Manifest& manifest, uint32_t shard, uint64_t offset,
                        uint64_t bytes) {
  if (shard >= static_cast<uint32_t>(manifest.shards_size())) {
    return absl::OutOfRangeError(
        absl::StrCat("shard ", shard, " of ", manifest.shards_size(), " shards"));
  }
  const uint64_t size = manifest.shards(static_cast<int>(shard)).bytes();
  if (offset > size || bytes > size - offset) {
    return absl::OutOfRangeError(absl::StrCat(manifest.shards(static_cast<int>(shard)).file_name(),
                                              ": ", bytes, " bytes at offset ", offset,
                                              " lie beyond the file's ", size, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckManifest(const v1::Manifest& manifest, std::string_view model,
                           uint64_t generation) {
  if (manifest.generation() != generation || generation == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a manifest of generation ", manifest.generation(), " for a lease on ", generation));
  }
  if (manifest.name() != model) {
    return absl::FailedPreconditionError(
        absl::StrCat("a manifest of model ", manifest.name(), " for ",
                     absl::string_view(model.data(), model.size())));
  }
  if (manifest.shards_size() == 0) {
    return absl::FailedPreconditionError("a manifest without files");
  }
  for (const v1::TensorInfo& tensor : manifest.tensors()) {
    const absl::Status inside =
        CheckRange(manifest, tensor.shard(), tensor.offset(), tensor.bytes());
    if (!inside.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("manifest: tensor ", tensor.name(), ": ", inside.message()));
    }
    if (tensor.dimensions_size() < 1 || tensor.dimensions_size() > 4) {
      return absl::FailedPreconditionError(absl::StrCat("manifest: tensor ", tensor.name(), " has ",
                                                        tensor.dimensions_size(), " dimensions"));
    }
  }
  return absl::OkStatus();
}

}  // namespace gguf_offload
