#include "computed/runtime/cuda/pinned_memory.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {

absl::StatusOr<PinnedMemory> PinnedMemory::Allocate(uint64_t bytes, absl::string_view purpose) {
  PinnedMemory memory;
  void* host = nullptr;
  absl::Status status =
      CudaStatus(cudaHostAlloc(&host, bytes, cudaHostAllocMapped),
                 absl::StrCat("pinning ", bytes, " bytes of memory for ", purpose));
  if (!status.ok()) {
    cudaGetLastError();  // it is told here, and not by whoever asks next
    return status;
  }
  memory.host = std::shared_ptr<uint8_t>(static_cast<uint8_t*>(host), cudaFreeHost);
  void* device = nullptr;
  status = CudaStatus(cudaHostGetDevicePointer(&device, host, 0), "a device address");
  if (!status.ok()) return status;
  memory.device = static_cast<uint8_t*>(device);
  return memory;
}

}  // namespace gguf_offload
