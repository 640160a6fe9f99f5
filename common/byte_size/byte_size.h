// Sizes as people write them.
#ifndef COMMON_BYTE_SIZE_BYTE_SIZE_H_
#define COMMON_BYTE_SIZE_BYTE_SIZE_H_

#include <cstdint>
#include "absl/strings/string_view.h"

#include "absl/status/statusor.h"

namespace gguf_offload {

// "1234", "900MiB", "6GiB", "1.5GB"...: bytes. INVALID_ARGUMENT otherwise.
absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text);

}  // namespace gguf_offload

#endif  // COMMON_BYTE_SIZE_BYTE_SIZE_H_
