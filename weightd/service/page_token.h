// Where a listing of tensors goes on.
#ifndef WEIGHTD_SERVICE_PAGE_TOKEN_H_
#define WEIGHTD_SERVICE_PAGE_TOKEN_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gguf_offload {

// The token for the page that begins with tensor `next` of a generation.
std::string MakePageToken(uint64_t generation, uint64_t next);

// The index of the first tensor of the page; 0 for an empty token. Errors: INVALID_ARGUMENT (not a
// token of this model, or beyond its `tensor_count`), FAILED_PRECONDITION (another generation is
// served now: list anew).
absl::StatusOr<uint64_t> ReadPageToken(std::string_view token, uint64_t generation,
                                       uint64_t tensor_count);

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_PAGE_TOKEN_H_
