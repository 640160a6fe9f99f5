#include "computed/prefetch/io_ring.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace gguf_offload {

IoRing::~IoRing() {
  if (initialized_) io_uring_queue_exit(&ring_);
  if (wake_fd_ >= 0) close(wake_fd_);
}

absl::Status IoRing::Initialize(int requests) {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("no eventfd: ", strerror(errno)));
  }
  // One entry more to be woken by.
  const int error = -io_uring_queue_init(static_cast<unsigned>(requests) + 1, &ring_, 0);
  if (error != 0) {
    const std::string message = absl::StrCat("io_uring cannot be used here: ", strerror(error));
    return error == ENOMEM || error == EMFILE || error == ENFILE
               ? absl::ResourceExhaustedError(message)
               : absl::FailedPreconditionError(message);
  }
  initialized_ = true;
  Watch();
  return absl::OkStatus();
}

io_uring_sqe* IoRing::NextEntry() { return io_uring_get_sqe(&ring_); }

void IoRing::SubmitAndWait(const std::function<void(void* data, int result)>& on_result) {
  // Whatever an interruption leaves unsubmitted stays in the ring for the next time.
  io_uring_submit_and_wait(&ring_, 1);
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(&ring_, &completion) == 0) {
    void* const data = io_uring_cqe_get_data(completion);
    const int result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (data != nullptr) {
      on_result(data, result);
      continue;
    }
    uint64_t count;
    [[maybe_unused]] const ssize_t taken = read(wake_fd_, &count, sizeof(count));
    Watch();
  }
}

void IoRing::Wake() const {
  const uint64_t one = 1;
  // Fails only if the count is at its limit, and then the thread is woken anyway.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void IoRing::Watch() {
  io_uring_sqe* const entry = NextEntry();
  io_uring_prep_poll_add(entry, wake_fd_, POLLIN);
  io_uring_sqe_set_data(entry, nullptr);
}

}  // namespace gguf_offload
