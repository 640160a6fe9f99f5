#include "weightd/shm/socket_file.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace gguf_offload::shm {
namespace {

using store::UniqueFd;

absl::Status Failed(absl::string_view what, const std::string& path) {
  const std::string text = absl::StrCat(what, " ", path, ": ", strerror(errno));
  if (errno == EACCES || errno == EPERM) return absl::PermissionDeniedError(text);
  return absl::UnavailableError(text);
}

bool SameFile(const std::string& path, dev_t device, ino_t inode) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode) && info.st_dev == device &&
         info.st_ino == inode;
}

// Removes the socket file of a daemon that is gone; an error if one is listening.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failed("lstat", path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists and is not a socket"));
  }
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return Failed("socket", path);
  const int connected =
      connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  if (connected == 0 || errno != ECONNREFUSED) {
    return absl::AlreadyExistsError(absl::StrCat("another daemon listens on ", path));
  }
  // Not a file that has been put there meanwhile.
  if (SameFile(path, info.st_dev, info.st_ino) && unlink(path.c_str()) != 0 && errno != ENOENT) {
    return Failed("unlink", path);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SocketFile> SocketFile::Listen(const std::string& path, mode_t mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path must have 1 to ",
                                                   sizeof(address.sun_path) - 1, " bytes: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (absl::Status s = RemoveStale(path, address); !s.ok()) return s;
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failed("socket", path);
  // The file inherits the socket's mode: there is no moment at which others could connect.
  if (fchmod(fd.get(), 0600) != 0) return Failed("fchmod", path);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EADDRINUSE) {
      return absl::AlreadyExistsError(absl::StrCat("another daemon listens on ", path));
    }
    return Failed("bind", path);
  }
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return Failed("lstat", path);
  SocketFile file(path, std::move(fd), info.st_dev, info.st_ino);
  if (listen(file.fd(), 128) != 0) return Failed("listen", path);
  if (chmod(path.c_str(), mode) != 0) return Failed("chmod", path);
  return file;
}

SocketFile::~SocketFile() {
  if (!fd_.valid()) return;
  if (SameFile(path_, device_, inode_)) unlink(path_.c_str());
}

}  // namespace gguf_offload::shm
