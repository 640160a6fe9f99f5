// A file descriptor that closes itself.
//
// Owns the descriptor; movable, not copyable. Not synchronized.
#ifndef WEIGHTD_STORE_UNIQUE_FD_H_
#define WEIGHTD_STORE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace gguf_offload::store {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.release();
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  // -1 if none is held.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor away; the caller closes it.
  int release() { return std::exchange(fd_, -1); }
  void reset() {
    if (fd_ >= 0) close(release());
  }

 private:
  int fd_ = -1;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_UNIQUE_FD_H_
