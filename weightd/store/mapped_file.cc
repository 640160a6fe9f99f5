#include "weightd/store/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload::store {
namespace {

absl::Status SystemError(int error, std::string_view path, std::string_view what) {
  const std::string message =
      absl::StrCat(std::string(path), ": ", std::string(what), ": ", strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case ELOOP:
      return absl::PermissionDeniedError(message);
    case ENAMETOOLONG:
    case EINVAL:
    case ENXIO:  // a socket
      return absl::InvalidArgumentError(message);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

FileIdentity IdentityOf(const struct stat& info) {
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .size = static_cast<uint64_t>(info.st_size),
          .mtime_ns = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

// What the descriptor refers to, all links resolved; empty if /proc does not say.
std::string ResolvedPath(int fd) {
  char target[PATH_MAX];
  const ssize_t length =
      readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), target, sizeof(target));
  return length <= 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

bool LiesBelow(const std::string& path, const std::string& root) {
  char resolved[PATH_MAX];
  if (realpath(root.c_str(), resolved) == nullptr) return false;
  std::string_view folder = resolved;
  if (folder == "/") return !path.empty() && path[0] == '/';
  return path.size() > folder.size() && path.compare(0, folder.size(), folder) == 0 &&
         path[folder.size()] == '/';
}

// Checked on the open descriptor and not on the path, which could change in between.
absl::Status CheckRoots(int fd, std::string_view path, const std::vector<std::string>& roots) {
  if (roots.empty()) return absl::OkStatus();
  const std::string resolved = ResolvedPath(fd);
  // A memfd's "path" is "/memfd:NAME", in no folder at all.
  if (!resolved.starts_with("/memfd:")) {
    for (const std::string& root : roots) {
      if (LiesBelow(resolved, root)) return absl::OkStatus();
    }
  }
  return absl::PermissionDeniedError(
      absl::StrCat(std::string(path), " (which is ", resolved, ") is outside the allowed folders"));
}

// A memfd without its seals can be shrunk and rewritten by whoever holds it.
absl::Status CheckSeals(int fd, std::string_view path) {
  if (!ResolvedPath(fd).starts_with("/memfd:")) return absl::OkStatus();
  constexpr int kNeeded = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kNeeded) != kNeeded) {
    return absl::FailedPreconditionError(
        absl::StrCat(std::string(path), ": a memfd that is not fully sealed"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(std::string_view path,
                                                                   const Options& options) {
  const std::string name(path);
  if (name.empty() || name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("a path that is empty or has a NUL byte");
  }
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  UniqueFd fd(open(name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) return SystemError(errno, path, "cannot open");
  if (absl::Status status = CheckRoots(fd.get(), path, options.allowed_roots); !status.ok()) {
    return status;
  }
  return FromDescriptor(std::move(fd), path);
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::FromDescriptor(
    UniqueFd fd, std::string_view name) {
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return SystemError(errno, name, "cannot stat");
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": not a regular file",
                                                   S_ISDIR(info.st_mode)    ? " but a directory"
                                                   : S_ISFIFO(info.st_mode) ? " but a FIFO"
                                                                            : ""));
  }
  if (absl::Status status = CheckSeals(fd.get(), name); !status.ok()) return status;
  const FileIdentity identity = IdentityOf(info);
  void* data = nullptr;
  if (identity.size > 0) {
    data = mmap(nullptr, identity.size, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (data == MAP_FAILED) return SystemError(errno, name, "cannot map");
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(
      std::string(name), std::move(fd), identity, static_cast<const uint8_t*>(data)));
}

MappedFile::MappedFile(std::string path, UniqueFd fd, FileIdentity identity, const uint8_t* data)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      identity_(identity),
      data_(data),
      guard_(data, identity.size) {}

MappedFile::~MappedFile() {
  guard_ = MappingGuard();
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size());
}

std::string_view MappedFile::base_name() const {
  return std::string_view(path_).substr(path_.rfind('/') + 1);
}

absl::Status MappedFile::CheckIntact() const {
  struct stat info;
  if (fstat(fd_.get(), &info) != 0) return SystemError(errno, path_, "cannot stat");
  if (static_cast<uint64_t>(info.st_size) < size()) {
    return absl::DataLossError(absl::StrCat(path_, ": truncated from ", size(), " to ",
                                            info.st_size, " bytes while it was mapped"));
  }
  if (guard_.faulted()) {
    return absl::DataLossError(absl::StrCat(path_, ": a page could not be read"));
  }
  return absl::OkStatus();
}

bool MappedFile::ModifiedInPlace() const {
  struct stat info;
  return fstat(fd_.get(), &info) != 0 || IdentityOf(info) != identity_;
}

bool MappedFile::WritableByThisUser() const {
  return access(absl::StrCat("/proc/self/fd/", fd_.get()).c_str(), W_OK) == 0;
}

}  // namespace gguf_offload::store
