// Brings matrices nearer in a launch of its own, while a stream has nothing else to do.
#ifndef KERNELS_OPS_READ_AHEAD_CUDA_H_
#define KERNELS_OPS_READ_AHEAD_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/ops/read_ahead.h"

namespace gguf_offload::cuda {

inline constexpr int kMostReadAhead = 4;

// Up to kMostReadAhead matrices, one after the other, if *count, of device memory, is at least
// `least`.
void BringAllNearer(std::span<const ReadAhead> matrices, const int32_t* count, int32_t least,
                    cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_READ_AHEAD_CUDA_H_
