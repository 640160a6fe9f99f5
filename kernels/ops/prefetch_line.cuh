#ifndef KERNELS_OPS_PREFETCH_LINE_CUH_
#define KERNELS_OPS_PREFETCH_LINE_CUH_

#include <cuda_runtime_api.h>

namespace gguf_offload::cuda {

inline constexpr int kCacheLineBytes = 128;

// Begins to bring the line that `global` is in to the second-level cache.
__device__ __forceinline__ void PrefetchLine(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// The same, and there it is among the last to make room for others; unlike PrefetchLine's, the line
// is surely asked for, however busy the memory is.
__device__ __forceinline__ void PrefetchAndKeepLine(const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(global));
#else
  PrefetchLine(global);
#endif
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_PREFETCH_LINE_CUH_
