#ifndef KERNELS_OPS_READ_AHEAD_CUH_
#define KERNELS_OPS_READ_AHEAD_CUH_

#include "kernels/ops/prefetch_line.cuh"
#include "kernels/ops/read_ahead.h"

namespace gguf_offload::cuda {

// Begins to bring it to the second-level cache; this is thread `thread` of `threads` that share
// the work.
__device__ __forceinline__ void BringNearer(const ReadAhead& a, int thread, int threads) {
  if (a.data == nullptr) return;
  const int lines = (a.bytes + kCacheLineBytes - 1) / kCacheLineBytes;
  const int64_t all = int64_t{a.rows} * lines;
  for (int64_t i = thread; i < all; i += threads) {
    PrefetchLine(a.data + i / lines * a.row_bytes + i % lines * kCacheLineBytes);
  }
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_READ_AHEAD_CUH_
