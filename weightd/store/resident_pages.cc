#include "weightd/store/resident_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace gguf_offload::store {
namespace {

// Pages that mincore is asked about at once.
constexpr size_t kWindow = 256;

bool MayLook(const MappedFile& file) {
  struct stat status;
  if (fstat(file.fd(), &status) != 0) return false;
  return status.st_uid == geteuid() || geteuid() == 0 || file.WritableByThisUser();
}

}  // namespace

std::optional<uint64_t> ResidentBytes(const MappedFile& file, size_t max_pages) {
  if (file.size() == 0) return 0;
  if (!MayLook(file)) return std::nullopt;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t pages = (file.size() - 1) / page + 1;
  const uint64_t windows =
      std::min<uint64_t>((pages - 1) / kWindow + 1, std::max<uint64_t>(1, max_pages / kWindow));
  const uint64_t window_pages = std::min<uint64_t>(pages, kWindow);
  std::vector<unsigned char> present(kWindow);
  uint64_t looked_at = 0;
  uint64_t resident = 0;
  for (uint64_t i = 0; i < windows; ++i) {
    // Evenly spread; one after the other if they cover everything.
    const bool all = windows * kWindow >= pages;
    const uint64_t first = all ? i * kWindow : i * (pages - window_pages) / windows;
    const uint64_t count = std::min(window_pages, pages - first);
    const uint8_t* const begin = file.data() + first * page;
    if (mincore(const_cast<uint8_t*>(begin), count * page, present.data()) != 0) {
      return std::nullopt;
    }
    looked_at += count;
    resident += static_cast<uint64_t>(
        std::count_if(present.begin(), present.begin() + static_cast<ptrdiff_t>(count),
                      [](unsigned char flags) { return (flags & 1) != 0; }));
  }
  if (resident == looked_at) return file.size();
  const double share = static_cast<double>(resident) / static_cast<double>(looked_at);
  return std::min(file.size(), static_cast<uint64_t>(share * static_cast<double>(pages * page)));
}

}  // namespace gguf_offload::store
