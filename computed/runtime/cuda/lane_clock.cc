#include "computed/runtime/cuda/lane_clock.h"

namespace gguf_offload {
namespace {

double SecondsBetween(cudaEvent_t start, cudaEvent_t end) {
  float milliseconds = 0;
  return cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess ? milliseconds * 1e-3 : 0;
}

}  // namespace

LaneClock::~LaneClock() {
  for (const Pending& pending : pending_) {
    cudaEventDestroy(pending.start);
    cudaEventDestroy(pending.end);
  }
  if (last_.end != nullptr) cudaEventDestroy(last_.end);
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

cudaEvent_t LaneClock::TakeEvent() {
  if (free_.empty()) {
    cudaEvent_t event = nullptr;
    cudaEventCreate(&event);
    return event;
  }
  cudaEvent_t event = free_.back();
  free_.pop_back();
  return event;
}

void LaneClock::Begin(int64_t step, int64_t detail) {
  absl::MutexLock lock(&mutex_);
  pending_.push_back({.step = step, .detail = detail, .start = TakeEvent(), .end = TakeEvent()});
  cudaEventRecord(pending_.back().start, stream_);
}

void LaneClock::End() {
  absl::MutexLock lock(&mutex_);
  cudaEventRecord(pending_.back().end, stream_);
  pending_.back().ended = true;
}

std::vector<LaneClock::Interval> LaneClock::Harvest(cudaEvent_t anchor) {
  absl::MutexLock lock(&mutex_);
  std::vector<Interval> intervals;
  while (!pending_.empty() && pending_.front().ended) {
    if (cudaEventQuery(pending_.front().end) != cudaSuccess) {
      cudaGetLastError();  // "not ready" would be found by whoever looks for errors next
      break;
    }
    const Pending& next = pending_.front();
    const bool same_step = last_.end != nullptr && last_.step == next.step;
    intervals.push_back(
        {.step = next.step,
         .detail = next.detail,
         .seconds = SecondsBetween(next.start, next.end),
         .gap_seconds = same_step ? SecondsBetween(last_.end, next.start) : 0,
         .start_seconds = anchor == nullptr ? 0 : SecondsBetween(anchor, next.start)});
    free_.push_back(next.start);
    if (last_.end != nullptr) free_.push_back(last_.end);
    last_ = next;
    pending_.pop_front();
  }
  return intervals;
}

}  // namespace gguf_offload
