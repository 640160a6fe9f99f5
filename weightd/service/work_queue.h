// Threads for work that may wait for the disk. gRPC's own threads must never do that: there are
// few, and health checks and Ping wait for them too.
#ifndef WEIGHTD_SERVICE_WORK_QUEUE_H_
#define WEIGHTD_SERVICE_WORK_QUEUE_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gguf_offload {

// A fixed number of threads and one queue, first come, first served. Its length is bounded by those
// who post: each stream and each call has at most one task in it. Thread safe.
class WorkQueue {
 public:
  explicit WorkQueue(int threads);
  // Runs what is queued, then ends the threads.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  void Post(std::function<void()> task);

 private:
  void Run();

  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_WORK_QUEUE_H_
