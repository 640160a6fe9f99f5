// Whether a manifest makes sense, before anybody computes with its numbers.
#ifndef WEIGHTD_CLIENT_MANIFEST_CHECK_H_
#define WEIGHTD_CLIENT_MANIFEST_CHECK_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// A manifest of this model and generation, with at least one shard, all tensors of which lie inside
// their shards. FAILED_PRECONDITION names the tensor that does not.
absl::Status CheckManifest(const v1::Manifest& manifest, std::string_view model,
                           uint64_t generation);

// Whether a range lies inside its shard. OUT_OF_RANGE.
absl::Status CheckRange(const v1::Manifest& manifest, uint32_t shard, uint64_t offset,
                        uint64_t bytes);

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_MANIFEST_CHECK_H_
