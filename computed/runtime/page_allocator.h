// Hands out the pages of a paged KV cache.
//
// Thread compatible.
#ifndef COMPUTED_RUNTIME_PAGE_ALLOCATOR_H_
#define COMPUTED_RUNTIME_PAGE_ALLOCATOR_H_

#include <cstdint>
#include <vector>

namespace gguf_offload {

class PageAllocator {
 public:
  explicit PageAllocator(int pages) : total_(pages) {
    // Low page numbers first, so that memory that was touched before is used again.
    for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
  }

  int total() const { return total_; }
  int free() const { return static_cast<int>(free_.size()); }

  // `count` pages, or none at all if there are too few.
  std::vector<int32_t> Allocate(int count) {
    if (count > free()) return {};
    std::vector<int32_t> pages;
    for (int i = 0; i < count; ++i) {
      pages.push_back(free_.back());
      free_.pop_back();
    }
    return pages;
  }

  void Free(const std::vector<int32_t>& pages) {
    free_.insert(free_.end(), pages.rbegin(), pages.rend());
  }

 private:
  const int total_;
  std::vector<int32_t> free_;  // used from the back
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_PAGE_ALLOCATOR_H_
