// When things ran on a stream: pairs of events, read after the fact, so that nothing waits.
#ifndef COMPUTED_RUNTIME_CUDA_LANE_CLOCK_H_
#define COMPUTED_RUNTIME_CUDA_LANE_CLOCK_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gguf_offload {

// Thread safe; Begin and End alternate.
class LaneClock {
 public:
  struct Interval {
    int64_t step = 0;    // as Begin had it
    int64_t detail = 0;  // as Begin had it
    double seconds = 0;
    double gap_seconds = 0;    // since the interval before ended; 0 if that was of another step
    double start_seconds = 0;  // since `anchor`, if there is one
  };

  // `stream` must outlive the clock.
  explicit LaneClock(cudaStream_t stream) : stream_(stream) {}
  ~LaneClock();
  LaneClock(const LaneClock&) = delete;
  LaneClock& operator=(const LaneClock&) = delete;

  void Begin(int64_t step, int64_t detail);
  void End();

  // The intervals that have ended since the last call, in order. `anchor` is an event that was
  // recorded before them, or null.
  std::vector<Interval> Harvest(cudaEvent_t anchor);

 private:
  struct Pending {
    int64_t step = 0;
    int64_t detail = 0;
    cudaEvent_t start = nullptr;
    cudaEvent_t end = nullptr;
    bool ended = false;
  };

  cudaEvent_t TakeEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const cudaStream_t stream_;
  absl::Mutex mutex_;
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  Pending last_ ABSL_GUARDED_BY(mutex_);  // harvested; its end begins the next gap
  std::vector<cudaEvent_t> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_LANE_CLOCK_H_
