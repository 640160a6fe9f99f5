#include "weightd/shm/handoff.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace gguf_offload::shm {
namespace {

absl::Status CheckSeals(int descriptor) {
  const int seals = fcntl(descriptor, F_GET_SEALS);
  constexpr int kWanted = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  if (seals >= 0 && (seals & kWanted) == kWanted) return absl::OkStatus();
  return absl::FailedPreconditionError(
      seals < 0 ? absl::StrCat("memfd whose seals cannot be read: ", strerror(errno))
                : absl::StrCat("memfd is not fully sealed: seals 0x", absl::Hex(seals)));
}

}  // namespace

absl::Status CheckShareable(int descriptor) {
  struct stat info;
  if (fstat(descriptor, &info) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("fstat: ", strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) return absl::FailedPreconditionError("not a regular file");
  const int flags = fcntl(descriptor, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || (flags & O_PATH) != 0) {
    return absl::FailedPreconditionError("not open for reading only");
  }
  // A memfd and a file of a tmpfs differ in nothing but this link. A file that is really called
  // "/memfd:..." is refused with it, which does no harm.
  char target[PATH_MAX];
  const std::string link = absl::StrCat("/proc/self/fd/", descriptor);
  const ssize_t length = readlink(link.c_str(), target, sizeof(target));
  if (length < 0) {
    return absl::FailedPreconditionError(absl::StrCat("readlink ", link, ": ", strerror(errno)));
  }
  const absl::string_view name(target, static_cast<size_t>(length));
  if (absl::StartsWith(name, "/memfd:")) return CheckSeals(descriptor);
  return absl::OkStatus();
}

bool WritableBy(int descriptor, uint32_t uid, uint32_t gid) {
  struct stat info;
  if (fstat(descriptor, &info) != 0) return false;
  // A fully sealed memfd refuses whatever its mode says; a regular file has no F_SEAL_WRITE.
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals >= 0 && (seals & F_SEAL_WRITE) != 0) return false;
  // The owner may change the mode.
  if (uid == 0 || uid == info.st_uid) return true;
  if (gid == info.st_gid) return (info.st_mode & S_IWGRP) != 0;
  return (info.st_mode & S_IWOTH) != 0;
}

}  // namespace gguf_offload::shm
