// Reads little-endian numbers and byte ranges off the front of a buffer, never beyond its end.
//
// Bounds are checked by comparing a length with what remains, so no sum can wrap. Refers to the
// buffer, which must outlive it. Not synchronized.
#ifndef WEIGHTD_GGUF_CURSOR_H_
#define WEIGHTD_GGUF_CURSOR_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace gguf_offload::gguf {

static_assert(std::endian::native == std::endian::little, "GGUF is read without swapping bytes");

class Cursor {
 public:
  explicit Cursor(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  // Bytes read so far, and bytes left.
  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  // Reads one number; false (and nothing read) if too few bytes are left.
  template <typename T>
  bool Read(T* value) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (sizeof(T) > remaining()) return false;
    std::memcpy(value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return true;
  }

  // Reads `count` numbers into `values`, which must have room for them; false if too few are left.
  template <typename T>
  bool ReadArray(uint64_t count, T* values) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (count > remaining() / sizeof(T)) return false;
    if (count == 0) return true;
    std::memcpy(values, bytes_.data() + offset_, count * sizeof(T));
    offset_ += count * sizeof(T);
    return true;
  }

  // Reads `count` bytes as a view into the buffer; false if too few are left.
  bool ReadBytes(uint64_t count, std::string_view* bytes) {
    if (count > remaining()) return false;
    *bytes = {reinterpret_cast<const char*>(bytes_.data() + offset_), static_cast<size_t>(count)};
    offset_ += count;
    return true;
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t offset_ = 0;  // <= bytes_.size()
};

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_CURSOR_H_
