// Counts the calls that gRPC has not finished with: unlike the passes of a CallGate, which end with
// our part of a call, it goes on until the answer has left.
#ifndef COMMON_DAEMON_LIVE_CALLS_H_
#define COMMON_DAEMON_LIVE_CALLS_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace gguf_offload {

// Thread safe.
class LiveCalls {
 public:
  void Add() {
    absl::MutexLock lock(&mutex_);
    ++count_;
  }
  void Remove() {
    absl::MutexLock lock(&mutex_);
    --count_;
  }
  // Whether there was a moment without calls before the deadline.
  bool WaitUntilNone(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ == 0; };
    return mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
  }

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_LIVE_CALLS_H_
