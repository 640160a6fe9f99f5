// Brings memory to the GPU's second-level cache before it is read, while the memory has nothing
// else to do.
#ifndef KERNELS_OPS_CACHE_PREFETCH_CUH_
#define KERNELS_OPS_CACHE_PREFETCH_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#ifdef __CUDACC__
#include "kernels/ops/prefetch_line.cuh"
#endif

namespace gguf_offload::cuda {

// The beginnings of the rows of a matrix: what reads it has its rows under way at the same time,
// and none would be done earlier for others that are there as a whole. Device memory.
struct RowBeginnings {
  const uint8_t* data = nullptr;
  int64_t row_bytes = 0;
  int rows = 0;
  int lines = 0;  // of the cache, of each row
};

// What to bring; a kernel's parameter.
struct CachePrefetch {
  static constexpr int kMostMatrices = 4;
  RowBeginnings matrices[kMostMatrices];
};

// Begins to bring it, behind what is on the stream; what follows there waits until it has begun.
void PrefetchToCache(const CachePrefetch& what, cudaStream_t stream);

#ifdef __CUDACC__

// The same as a part of a kernel: the share of block `block` of `blocks`. All threads of the block
// call it.
__device__ __forceinline__ void BeginPrefetch(const CachePrefetch& what, unsigned block,
                                              unsigned blocks) {
#pragma unroll
  for (const RowBeginnings& matrix : what.matrices) {
    const int64_t lines = int64_t{matrix.rows} * matrix.lines;
    for (int64_t i = int64_t{block} * blockDim.x + threadIdx.x; i < lines;
         i += int64_t{blocks} * blockDim.x) {
      const auto row = static_cast<unsigned>(i) / static_cast<unsigned>(matrix.lines);
      const auto line = static_cast<unsigned>(i) % static_cast<unsigned>(matrix.lines);
      PrefetchLine(matrix.data + row * matrix.row_bytes + int64_t{line} * kCacheLineBytes);
    }
  }
}

#endif  // __CUDACC__

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_CACHE_PREFETCH_CUH_
