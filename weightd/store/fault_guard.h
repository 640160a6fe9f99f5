// Survives reads of mapped files that have been truncated.
//
// Reading a page of a file mapping that no longer has a file behind it raises SIGBUS, which kills
// the process. A MappingGuard registers a mapping with a process-wide handler of SIGBUS: a fault
// inside it replaces the faulting page by a page of zeros and sets the mapping's flag, and the read
// goes on. So a reader reads first, then asks faulted(); whatever it read is worth nothing if so.
// Memory errors that the hardware reports (BUS_MCEERR_AR) are treated alike. Faults elsewhere go to
// the handler that was installed before, or to the default action.
//
// Note that system calls which read from such a page (write, send) fail with EFAULT instead and set
// no flag, and that the part of the last page beyond the file's end reads as zeros without a fault:
// MappedFile::CheckIntact compares sizes as well.
#ifndef WEIGHTD_STORE_FAULT_GUARD_H_
#define WEIGHTD_STORE_FAULT_GUARD_H_

#include <cstddef>

namespace gguf_offload::store {

// Registers [begin, begin + bytes) for its own lifetime, which must lie within the mapping's: unmap
// only after the guard is gone. Does not own the mapping. Movable, not copyable. faulted() is safe
// from any thread.
class MappingGuard {
 public:
  struct Slot;

  // Guards nothing.
  MappingGuard() = default;
  // `begin` is the page-aligned start of a mapping. The first guard installs the handler.
  MappingGuard(const void* begin, size_t bytes);
  MappingGuard(MappingGuard&& other) noexcept;
  MappingGuard& operator=(MappingGuard&& other) noexcept;
  ~MappingGuard();

  // Whether a page of the mapping has been replaced by zeros since registration.
  bool faulted() const;

 private:
  void Unregister();

  Slot* slot_ = nullptr;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_FAULT_GUARD_H_
