#ifndef KERNELS_OPS_READ_AHEAD_CUH_
#define KERNELS_OPS_READ_AHEAD_CUH_

#include "kernels/ops/prefetch_line.cuh"
#include "kernels/ops/read_ahead.h"

namespace gguf_offload::cuda {

// Begins to bring it to the second-level cache; this is thread `thread` of `threads` that share the
// work, which takes them `cycles` a line. Lines are spread over the whole matrix: whoever reads it
// then waits for the memory and for the cache at the same time, not for one after the other.
__device__ __forceinline__ void BringNearer(const ReadAhead& a, float cycles, int thread,
                                            int threads) {
  if (a.data == nullptr || a.most_bytes <= 0) return;
  const int64_t lines = a.bytes / kCacheLineBytes;
  const int64_t step = a.step();
  const auto pace = static_cast<int>(cycles * threads);
  long long next = clock64();
  for (int64_t line = thread * step; line < lines; line += threads * step) {
    PrefetchAndKeepLine(a.data + line * kCacheLineBytes);
    next += pace;
    while (clock64() < next) __nanosleep(100);
  }
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_READ_AHEAD_CUH_
