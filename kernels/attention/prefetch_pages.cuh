// What decode attention brings nearer: pages of the key-value cache while the kernels that make a
// step's queries still run, and weights that are read behind it.
#ifndef KERNELS_ATTENTION_PREFETCH_PAGES_CUH_
#define KERNELS_ATTENTION_PREFETCH_PAGES_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/attention/kv_layer_cuda.h"
#include "kernels/ops/cache_prefetch.cuh"
#include "kernels/ops/prefetch_line.cuh"

namespace gguf_offload::cuda {

// Begins to bring positions [begin, end) of a head, or the first of them, to the second-level
// cache; they need not be written yet. `cache` is (pages, kv_heads, kPageTokens, dim). The whole
// block calls it.
__device__ __forceinline__ void PrefetchPages(const __half* cache, const int32_t* pages,
                                              int kv_heads, int kv_head, int dim, int begin,
                                              int end) {
  constexpr int kMostPages = 4;
  const int first = begin / kPageTokens;
  const int last = min(first + kMostPages, (end + kPageTokens - 1) / kPageTokens);
  const int bytes = kPageTokens * dim * static_cast<int>(sizeof(__half));
  for (int page = first; page < last; ++page) {
    const auto* from = reinterpret_cast<const uint8_t*>(
        cache + (int64_t{pages[page]} * kv_heads + kv_head) * kPageTokens * dim);
    for (int i = threadIdx.x * kCacheLineBytes; i < bytes; i += blockDim.x * kCacheLineBytes) {
      PrefetchLine(from + i);
    }
  }
}

// Brings what later kernels read to the cache. Called by the blocks of decode attention (grid:
// (splits, heads, rows)) that have no positions, as a sequence has fewer shares than there are
// splits; `active` have some.
__device__ __forceinline__ void PrefetchBesides(const CachePrefetch& next, int active) {
  if (blockIdx.z != 0 || static_cast<int>(blockIdx.x) < active) return;
  const unsigned idle = gridDim.x - active;
  BeginPrefetch(next, blockIdx.x - active + idle * blockIdx.y, idle * gridDim.y);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_PREFETCH_PAGES_CUH_
