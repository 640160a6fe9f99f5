// Records what a worker does when, on request.
//
// The result is Chrome trace-event JSON ("Trace Event Format"), which Perfetto reads: one track a
// lane (compute, weights, host). Recording is off unless a capture is running; a span then costs
// two clock reads.
//
// Thread safe.
#ifndef COMPUTED_RUNTIME_TRACE_H_
#define COMPUTED_RUNTIME_TRACE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace gguf_offload {

class Trace {
 public:
  // Times the enclosing block. `lane` and `name` must be string literals.
  class Span {
   public:
    Span(Trace* trace, const char* lane, const char* name, int64_t detail = -1);
    ~Span();
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    Trace* const trace_;  // null while nothing is recorded
    const char* const lane_;
    const char* const name_;
    const int64_t detail_;
    int64_t start_ns_ = 0;
  };

  // Whether a capture is running.
  bool recording() const { return recording_.load(std::memory_order_relaxed); }
  // Adds what is timed otherwise, in nanoseconds since the epoch; dropped unless a capture runs.
  void AddSpan(const char* lane, const char* name, int64_t detail, int64_t start_ns,
               int64_t end_ns) {
    Add({lane, name, detail, start_ns, end_ns});
  }

  // Starts recording; false if a capture is running already.
  bool Start();
  // Stops recording and returns the JSON document.
  std::string Stop();

 private:
  struct Event {
    const char* lane;
    const char* name;
    int64_t detail;  // the layer, the number of rows...; -1: none
    int64_t start_ns;
    int64_t end_ns;
  };

  void Add(const Event& event);

  std::atomic<bool> recording_{false};
  absl::Mutex mutex_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_TRACE_H_
