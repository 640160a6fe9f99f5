// A regular file, opened and mapped read-only as a whole.
//
// The mapping is shared with everybody else who maps the file, so there is one copy of the pages in
// the machine; nothing is read until pages are touched. A file cannot be protected against being
// truncated or rewritten by others while it is mapped; that is noticed instead (CheckIntact,
// ModifiedInPlace) and survived (fault_guard.h). A file replaced by rename is not affected: the
// mapping keeps the old one.
#ifndef WEIGHTD_STORE_MAPPED_FILE_H_
#define WEIGHTD_STORE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weightd/store/fault_guard.h"
#include "weightd/store/unique_fd.h"

namespace gguf_offload::store {

// Tells one state of one file from all others, as far as the file system can.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;     // bytes
  int64_t mtime_ns = 0;  // nanoseconds since the epoch

  bool operator==(const FileIdentity&) const = default;
};

// Owns the descriptor and the mapping, which live as long as the object. Immutable; all methods are
// safe from any thread.
class MappedFile {
 public:
  struct Options {
    // If not empty, the file must lie below one of these folders once all links are resolved.
    std::vector<std::string> allowed_roots;
  };

  // Opens and maps the file at `path`. Never blocks on a FIFO. Errors: NOT_FOUND,
  // PERMISSION_DENIED (also: outside the allowed folders), INVALID_ARGUMENT (not a regular file),
  // FAILED_PRECONDITION (a memfd that is not fully sealed), RESOURCE_EXHAUSTED (no descriptors, no
  // memory), UNAVAILABLE (other errors of the operating system).
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(std::string_view path,
                                                                const Options& options = {});

  // Maps a file that somebody else has opened for reading. `name` is for messages.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> FromDescriptor(UniqueFd fd,
                                                                          std::string_view name);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // The first byte, page-aligned; nullptr if the file is empty. (size() bytes)
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return identity_.size; }
  std::span<const uint8_t> bytes() const { return {data_, static_cast<size_t>(size())}; }
  // Open for reading only.
  int fd() const { return fd_.get(); }
  // As given to Open.
  const std::string& path() const { return path_; }
  // The part of path() after the last slash.
  std::string_view base_name() const;
  // As it was when the file was opened.
  const FileIdentity& identity() const { return identity_; }

  // DATA_LOSS if the file has become shorter or a page of it could not be read. Bytes read from the
  // mapping count only if this is OK afterwards. One fstat.
  absl::Status CheckIntact() const;

  // Whether the file has been written to since it was opened (its modification time or size has
  // changed), so that its contents may have changed under the mapping. One fstat.
  bool ModifiedInPlace() const;

  // Whether this process could open the file for writing, and with it any process of the same user
  // that gets the descriptor.
  bool WritableByThisUser() const;

 private:
  MappedFile(std::string path, UniqueFd fd, FileIdentity identity, const uint8_t* data);

  const std::string path_;
  const UniqueFd fd_;
  const FileIdentity identity_;
  const uint8_t* const data_;
  MappingGuard guard_;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_MAPPED_FILE_H_
