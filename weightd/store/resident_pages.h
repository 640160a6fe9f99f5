// How much of a mapped file is in memory.
#ifndef WEIGHTD_STORE_RESIDENT_PAGES_H_
#define WEIGHTD_STORE_RESIDENT_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "weightd/store/mapped_file.h"

namespace gguf_offload::store {

// Bytes of the file that are in the page cache, by mincore(2). Of a file of more than `max_pages`
// pages only so many are looked at, in windows spread evenly over it, and the answer is an
// estimate. Nothing if the kernel does not tell: it does only to those who own the file or may
// write it (mincore(2), NOTES; to others all pages seem to be there).
std::optional<uint64_t> ResidentBytes(const MappedFile& file, size_t max_pages);

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_RESIDENT_PAGES_H_
