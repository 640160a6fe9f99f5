// A thread's io_uring that other threads can wake it from waiting on.
#ifndef COMPUTED_PREFETCH_IO_RING_H_
#define COMPUTED_PREFETCH_IO_RING_H_

#include <liburing.h>

#include <functional>

#include "absl/status/status.h"

namespace gguf_offload {

// Owns the ring and an eventfd. Of one thread, but for Wake.
class IoRing {
 public:
  IoRing() = default;
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;
  ~IoRing();

  // For `requests` requests at once. FAILED_PRECONDITION if the kernel or the container does not
  // allow io_uring, RESOURCE_EXHAUSTED.
  absl::Status Initialize(int requests);

  // An entry to be filled with a request and its data (not null) and submitted by SubmitAndWait.
  // Never null while no more than `requests` requests have no result yet.
  io_uring_sqe* NextEntry();

  // Submits the entries, waits for a result or Wake, and calls `on_result` with the data and the
  // result of each request that is done. May return without any.
  void SubmitAndWait(const std::function<void(void* data, int result)>& on_result);

  // Ends a wait, the present one or the next. From any thread.
  void Wake() const;

 private:
  // Asks for a result when Wake is called.
  void Watch();

  io_uring ring_;
  bool initialized_ = false;
  int wake_fd_ = -1;
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_IO_RING_H_
