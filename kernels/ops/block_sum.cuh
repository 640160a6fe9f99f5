// Sums over a warp and over a block, in one fixed order; and the largest number of a warp.
#ifndef KERNELS_OPS_BLOCK_SUM_CUH_
#define KERNELS_OPS_BLOCK_SUM_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// The sum of the warp's values, in every lane.
__device__ __forceinline__ float SumOverWarp(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

__device__ __forceinline__ int SumOverWarp(int number) {
#if __CUDA_ARCH__ >= 800
  return __reduce_add_sync(0xffffffffu, number);
#else
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    number += __shfl_xor_sync(0xffffffffu, number, distance);
  }
  return number;
#endif
}

// The largest of the warp's numbers, in every lane.
__device__ __forceinline__ uint32_t LargestOverWarp(uint32_t number) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, number);
#else
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, number, distance);
    number = other > number ? other : number;
  }
  return number;
#endif
}

// The sum of the block's values, in every thread. `warp_sums` is shared memory that nothing else
// uses while this runs; the block is one-dimensional and a multiple of 32. One barrier: every warp
// adds up the sums of all warps itself.
__device__ __forceinline__ float SumOverBlock(float value, float (&warp_sums)[32]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = SumOverWarp(value);
  if (blockDim.x == 32) return value;
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  return SumOverWarp(lane < blockDim.x / 32 ? warp_sums[lane] : 0.0f);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_BLOCK_SUM_CUH_
