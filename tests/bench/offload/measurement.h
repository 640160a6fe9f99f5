// What a benchmark on a GPU measures beside the time of steps: the speeds that its floors come
// from, and the driver's count of memory.
#ifndef TESTS_BENCH_OFFLOAD_MEASUREMENT_H_
#define TESTS_BENCH_OFFLOAD_MEASUREMENT_H_

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace gguf_offload {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start);

// Bytes a second: one copy of `bytes` after the other from pinned memory to the GPU, or within the
// GPU (read and written).
double CopyBandwidth(cudaMemcpyKind kind, uint64_t bytes);

// Bytes a second at which `slices` pieces of `bytes` each come from places spread over pinned
// memory of the host, as one queue of copies or gathered by one kernel, whichever is faster.
double GatherBandwidth(uint64_t bytes, int slices);

// The driver's count of memory taken since this object was made, with the context, and its peak.
// A thread of its own looks every 10 ms.
class MemoryWatch {
 public:
  MemoryWatch();
  ~MemoryWatch();
  uint64_t Peak();  // bytes

 private:
  void Sample();

  uint64_t free_at_start_ = 0;
  std::atomic<uint64_t> lowest_free_{0};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // TESTS_BENCH_OFFLOAD_MEASUREMENT_H_
