// Creates and removes the file of a listening Unix socket.
#ifndef WEIGHTD_SHM_SOCKET_FILE_H_
#define WEIGHTD_SHM_SOCKET_FILE_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "weightd/store/unique_fd.h"

namespace gguf_offload::shm {

// A listening socket and its file, which is removed with it unless another one has taken its place.
// Movable, not copyable.
class SocketFile {
 public:
  // Binds a nonblocking socket to `path` with permissions `mode` and listens. See
  // LocalSocket::Start for the errors.
  static absl::StatusOr<SocketFile> Listen(const std::string& path, mode_t mode);

  SocketFile(SocketFile&&) noexcept = default;
  SocketFile& operator=(SocketFile&&) = delete;
  ~SocketFile();

  // The listening socket, owned by this.
  int fd() const { return fd_.get(); }

 private:
  SocketFile(std::string path, store::UniqueFd fd, dev_t device, ino_t inode)
      : path_(std::move(path)), fd_(std::move(fd)), device_(device), inode_(inode) {}

  std::string path_;
  store::UniqueFd fd_;
  dev_t device_;
  ino_t inode_;
};

}  // namespace gguf_offload::shm

#endif  // WEIGHTD_SHM_SOCKET_FILE_H_
