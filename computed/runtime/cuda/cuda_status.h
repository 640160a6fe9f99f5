// Errors of the CUDA runtime as absl::Status.
#ifndef COMPUTED_RUNTIME_CUDA_CUDA_STATUS_H_
#define COMPUTED_RUNTIME_CUDA_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {

inline absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_CUDA_STATUS_H_
