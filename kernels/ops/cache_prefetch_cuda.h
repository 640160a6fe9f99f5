// Brings memory to the GPU's second-level cache before it is read, while the memory has nothing
// else to do.
#ifndef KERNELS_OPS_CACHE_PREFETCH_CUDA_H_
#define KERNELS_OPS_CACHE_PREFETCH_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

namespace gguf_offload::cuda {

// Device memory.
struct MemoryRange {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
};

inline constexpr int kMaxPrefetchRanges = 4;

// Begins to bring the ranges, kMaxPrefetchRanges at most, to the cache, in their order; what
// follows on the stream does not wait for it.
void PrefetchToCache(std::span<const MemoryRange> ranges, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_CACHE_PREFETCH_CUDA_H_
