// A second way to a file that somebody else has opened: past the page cache, where the file system
// allows it.
#ifndef COMPUTED_PREFETCH_DIRECT_FILE_H_
#define COMPUTED_PREFETCH_DIRECT_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {

// Owns a descriptor of its own, open for reading. Movable, not copyable.
class DirectFile {
 public:
  // Opens what `descriptor` refers to anew with O_DIRECT, which leaves the status flags of the
  // given descriptor alone, as others may share them, and reads one block to see whether that
  // works. If any of it does not (tmpfs before Linux 6.6, blocks larger than `alignment`, no /proc,
  // a file that the sender of the descriptor may open but this process may not), reads go through
  // the page cache. `name` is for messages. RESOURCE_EXHAUSTED if this process may open no more
  // files.
  static absl::StatusOr<DirectFile> Open(int descriptor, absl::string_view name,
                                         uint64_t alignment);
  // Goes through the page cache whatever the file system allows, because of `refusal`.
  static absl::StatusOr<DirectFile> OpenCached(int descriptor, absl::string_view name,
                                               absl::string_view refusal);

  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&&) = delete;
  ~DirectFile();

  int fd() const { return fd_; }
  // Whether offsets, sizes and addresses have to be multiples of the alignment.
  bool direct() const { return refusal_.empty(); }
  // Why reads go through the page cache; empty if they do not.
  const std::string& refusal() const { return refusal_; }

  // Lets the page cache forget a piece of the file that has been read, if it went through it.
  void Forget(uint64_t offset, uint64_t bytes) const;

 private:
  DirectFile(int fd, std::string refusal) : fd_(fd), refusal_(std::move(refusal)) {}

  int fd_;
  std::string refusal_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_DIRECT_FILE_H_
