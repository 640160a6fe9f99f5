#include "computed/prefetch/direct_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

// Not O_NONBLOCK, which io_uring takes as a wish for EAGAIN even from some regular files.
int OpenAgain(int descriptor, int flags) {
  return open(absl::StrCat("/proc/self/fd/", descriptor).c_str(),
              O_RDONLY | O_CLOEXEC | O_NOCTTY | flags);
}

// 0, or why blocks of this size cannot be read.
int TryBlock(int fd, uint64_t alignment) {
  const std::unique_ptr<void, decltype(&std::free)> block(std::aligned_alloc(alignment, alignment),
                                                          &std::free);
  if (block == nullptr) return ENOMEM;
  return pread(fd, block.get(), alignment, 0) < 0 ? errno : 0;
}

}  // namespace

absl::StatusOr<DirectFile> DirectFile::Open(int descriptor, absl::string_view name,
                                            uint64_t alignment) {
  const int fd = OpenAgain(descriptor, O_DIRECT);
  const int error = fd < 0 ? errno : TryBlock(fd, alignment);
  if (error == 0) return DirectFile(fd, "");
  if (fd >= 0) close(fd);
  return OpenCached(descriptor, name, strerror(error));
}

absl::StatusOr<DirectFile> DirectFile::OpenCached(int descriptor, absl::string_view name,
                                                  absl::string_view refusal) {
  int fd = OpenAgain(descriptor, 0);
  if (fd < 0) fd = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name, ": cannot be opened again: ", strerror(errno)));
  }
  return DirectFile(fd,
                    absl::StrCat(name, " is read through the page cache, not directly: ", refusal));
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), refusal_(std::move(other.refusal_)) {}

DirectFile::~DirectFile() {
  if (fd_ >= 0) close(fd_);
}

void DirectFile::Forget(uint64_t offset, uint64_t bytes) const {
  if (direct()) return;
  // Advice: nothing depends on whether it is taken. Pages that somebody maps stay.
  (void)posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                      POSIX_FADV_DONTNEED);
}

}  // namespace gguf_offload
