// A GPU, its context and the two streams that everything runs on.
#ifndef COMPUTED_RUNTIME_CUDA_CUDA_DEVICE_H_
#define COMPUTED_RUNTIME_CUDA_CUDA_DEVICE_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gguf_offload {

// Thread safe.
class CudaDevice {
 public:
  // Opens the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses). FAILED_PRECONDITION if
  // there is none.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Open();
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // Every thread that uses the device calls this first.
  absl::Status MakeCurrent() const;

  cudaStream_t compute_stream() const { return compute_; }
  cudaStream_t copy_stream() const { return copy_; }
  const std::string& name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }
  int64_t cache_bytes() const { return cache_bytes_; }  // of the second level

  // By the driver's count: what is free now, and what has been taken since the context was made. On
  // a GPU that several processes share, their changes are in it.
  uint64_t FreeBytes() const;
  uint64_t UsedBytes() const;

 private:
  CudaDevice() = default;

  int ordinal_ = 0;
  std::string name_;
  int multiprocessors_ = 0;
  int64_t cache_bytes_ = 0;
  uint64_t free_at_start_ = 0;
  cudaStream_t compute_ = nullptr;
  cudaStream_t copy_ = nullptr;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_CUDA_DEVICE_H_
