#include "computed/runtime/cuda/device_arena.h"

#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<DeviceArena>> DeviceArena::Create(uint64_t bytes) {
  std::unique_ptr<DeviceArena> arena(new DeviceArena);
  arena->size_ = Rounded(bytes) + 2 * kAlignment;
  void* memory = nullptr;
  absl::Status status =
      CudaStatus(cudaMalloc(&memory, arena->size_),
                 absl::StrCat("allocating ", arena->size_ >> 20, " MiB of GPU memory"));
  if (!status.ok()) return status;
  arena->base_ = static_cast<uint8_t*>(memory);
  arena->taken_ = kAlignment;
  return arena;
}

DeviceArena::~DeviceArena() {
  if (base_ != nullptr) cudaFree(base_);
}

absl::StatusOr<uint8_t*> DeviceArena::Take(uint64_t bytes, absl::string_view purpose) {
  const uint64_t rounded = Rounded(bytes);
  if (rounded > size_ - kAlignment - taken_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(purpose, " needs ", rounded, " bytes of GPU memory and ",
                     size_ - kAlignment - taken_, " are left of ", size_));
  }
  uint8_t* const piece = base_ + taken_;
  taken_ += rounded;
  return piece;
}

}  // namespace gguf_offload
