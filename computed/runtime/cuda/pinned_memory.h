// Host memory that a GPU reads and writes where it lies.
#ifndef COMPUTED_RUNTIME_CUDA_PINNED_MEMORY_H_
#define COMPUTED_RUNTIME_CUDA_PINNED_MEMORY_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {

// Pinned and mapped into the GPU's address space.
struct PinnedMemory {
  std::shared_ptr<uint8_t> host;  // (bytes)
  uint8_t* device = nullptr;      // the same bytes by their device address

  // `purpose` is named in errors: RESOURCE_EXHAUSTED, or what CUDA says.
  static absl::StatusOr<PinnedMemory> Allocate(uint64_t bytes, absl::string_view purpose);
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_PINNED_MEMORY_H_
