// A copy of some bytes that ends where unreadable memory begins, so that reading one byte too many
// crashes the test even without a sanitizer.
#ifndef WEIGHTD_GGUF_TESTING_FENCED_BYTES_H_
#define WEIGHTD_GGUF_TESTING_FENCED_BYTES_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

namespace gguf_offload::gguf {

class FencedBytes {
 public:
  explicit FencedBytes(std::string_view bytes) : size_(bytes.size()) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t readable = (size_ + page - 1) / page * page;
    mapped_ = readable + page;
    void* base = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) std::abort();
    base_ = static_cast<uint8_t*>(base);
    begin_ = base_ + readable - size_;
    if (size_ > 0) std::memcpy(begin_, bytes.data(), size_);
    if (mprotect(base_ + readable, page, PROT_NONE) != 0) std::abort();
  }
  FencedBytes(const FencedBytes&) = delete;
  FencedBytes& operator=(const FencedBytes&) = delete;
  ~FencedBytes() { munmap(base_, mapped_); }

  std::span<const uint8_t> bytes() const { return {begin_, size_}; }
  // Moves the fence: the first `size` bytes, copied to the end.
  void Shorten(size_t size) {
    uint8_t* begin = begin_ + (size_ - size);
    std::memmove(begin, begin_, size);
    begin_ = begin;
    size_ = size;
  }

 private:
  size_t size_;
  size_t mapped_;
  uint8_t* base_;
  uint8_t* begin_;
};

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_TESTING_FENCED_BYTES_H_
