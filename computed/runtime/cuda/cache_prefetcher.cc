#include "computed/runtime/cuda/cache_prefetcher.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/ops/cache_prefetch_cuda.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<CachePrefetcher>> CachePrefetcher::Create(int64_t cache_bytes) {
  std::unique_ptr<CachePrefetcher> prefetcher(new CachePrefetcher(cache_bytes));
  absl::Status status = CudaStatus(
      cudaStreamCreateWithFlags(&prefetcher->stream_, cudaStreamNonBlocking), "a stream");
  for (cudaEvent_t* event : {&prefetcher->from_, &prefetcher->to_}) {
    if (!status.ok()) return status;
    status = CudaStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event");
  }
  if (!status.ok()) return status;
  return prefetcher;
}

CachePrefetcher::~CachePrefetcher() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : {from_, to_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void CachePrefetcher::Begin(std::initializer_list<const Weight*> weights, cudaStream_t compute) {
  std::vector<cuda::MemoryRange> ranges;
  int64_t room = most_bytes_;
  for (const Weight* weight : weights) {
    if (weight == nullptr || !*weight || room == 0) continue;
    const int64_t bytes =
        weight->rows * quant::RowBytes(quant::FormatOf(weight->type), weight->columns);
    ranges.push_back({weight->data, std::min(bytes, room)});
    room -= ranges.back().bytes;
    if (ranges.size() == cuda::kMaxPrefetchRanges) break;
  }
  if (ranges.empty()) return;
  cudaEventRecord(from_, compute);
  cudaStreamWaitEvent(stream_, from_, 0);
  cuda::PrefetchToCache(ranges, stream_);
  begun_ = true;
}

void CachePrefetcher::Join(cudaStream_t compute) {
  if (!std::exchange(begun_, false)) return;
  cudaEventRecord(to_, stream_);
  cudaStreamWaitEvent(compute, to_, 0);
}

}  // namespace gguf_offload
