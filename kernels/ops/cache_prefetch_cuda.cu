#include <algorithm>
#include <cassert>

#include "kernels/ops/cache_prefetch_cuda.h"
#include "kernels/ops/prefetch_line.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 128;

struct PrefetchArguments {
  MemoryRange ranges[kMaxPrefetchRanges];
  int count;
};

__global__ void __launch_bounds__(kThreads)
    PrefetchKernel(const __grid_constant__ PrefetchArguments a) {
  for (int i = 0; i < a.count; ++i) {
    const MemoryRange& range = a.ranges[i];
    const int64_t step = int64_t{gridDim.x} * kThreads * kCacheLineBytes;
    for (int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCacheLineBytes;
         at < range.bytes; at += step) {
      PrefetchLine(range.data + at);
    }
  }
}

}  // namespace

void PrefetchToCache(std::span<const MemoryRange> ranges, cudaStream_t stream) {
  assert(ranges.size() <= kMaxPrefetchRanges);
  PrefetchArguments a = {};
  int64_t lines = 0;
  for (const MemoryRange& range : ranges) {
    a.ranges[a.count++] = range;
    lines += (range.bytes + kCacheLineBytes - 1) / kCacheLineBytes;
  }
  if (lines == 0) return;
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(kMostBlocks, (lines + kThreads - 1) / kThreads));
  PrefetchKernel<<<blocks, kThreads, 0, stream>>>(a);
}

}  // namespace gguf_offload::cuda
