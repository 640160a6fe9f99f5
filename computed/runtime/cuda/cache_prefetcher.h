// Weights on their way to the GPU's second-level cache, beside what else the GPU does: see
// Backend::PrefetchToCache.
#ifndef COMPUTED_RUNTIME_CUDA_CACHE_PREFETCHER_H_
#define COMPUTED_RUNTIME_CUDA_CACHE_PREFETCHER_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "absl/status/statusor.h"
#include "computed/runtime/tensor.h"

namespace gguf_offload {

// What it queues is captured along with the compute stream, if that is from Begin to the Join
// behind it. Not thread safe.
class CachePrefetcher {
 public:
  // cache_bytes: of the second level, half of which may be filled at a time.
  static absl::StatusOr<std::unique_ptr<CachePrefetcher>> Create(int64_t cache_bytes);
  ~CachePrefetcher();
  CachePrefetcher(const CachePrefetcher&) = delete;
  CachePrefetcher& operator=(const CachePrefetcher&) = delete;

  // Brings as much of the weights, in their order, as there is room for, when what has been queued
  // on `compute` is done. Null or absent ones count for nothing.
  void Begin(std::initializer_list<const Weight*> weights, cudaStream_t compute);
  // What is queued on `compute` from here on is behind all of that.
  void Join(cudaStream_t compute);

 private:
  explicit CachePrefetcher(int64_t cache_bytes) : most_bytes_(cache_bytes / 2) {}

  const int64_t most_bytes_;
  // Null where Create failed half way.
  cudaStream_t stream_ = nullptr;
  cudaEvent_t from_ = nullptr;  // on the compute stream
  cudaEvent_t to_ = nullptr;    // on stream_
  bool begun_ = false;          // since the last Join
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_CACHE_PREFETCHER_H_
