// Brings pages of the key-value cache nearer while the kernels that make a step's queries still
// run.
#ifndef KERNELS_ATTENTION_PREFETCH_PAGES_CUH_
#define KERNELS_ATTENTION_PREFETCH_PAGES_CUH_

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/attention/kv_layer_cuda.h"
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

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_PREFETCH_PAGES_CUH_
