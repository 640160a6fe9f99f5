#include "computed/tokenizer/utf8_stream.h"

#include <cstddef>
#include <cstdint>

#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the longest beginning of `text` that is also the beginning of a well-formed sequence
// (Unicode 15.0, table 3-7), and in `whole` the length of that sequence. `text` is not empty; the
// result is 0 if its first byte begins no sequence.
size_t SubpartLength(std::string_view text, size_t* whole) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  *whole = lead < 0x80   ? 1
           : lead < 0xC2 ? 0
           : lead < 0xE0 ? 2
           : lead < 0xF0 ? 3
           : lead < 0xF5 ? 4
                         : 0;
  if (*whole == 0) return 0;
  size_t length = 1;
  while (length < *whole && length < text.size()) {
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (length == 1) {  // no overlong forms, no surrogates, nothing above U+10FFFF
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    const uint8_t byte = static_cast<uint8_t>(text[length]);
    if (byte < low || byte > high) break;
    ++length;
  }
  return length;
}

}  // namespace

std::string Utf8Stream::Push(std::string_view bytes) {
  const std::string input = tail_ + std::string(bytes);
  tail_.clear();
  std::string output;
  std::string_view rest = input;
  while (!rest.empty()) {
    size_t whole = 0;
    const size_t length = SubpartLength(rest, &whole);
    if (length == whole && whole > 0) {
      output += rest.substr(0, length);
    } else if (length == rest.size()) {
      tail_ = std::string(rest);
      break;
    } else {
      output += kReplacement;
    }
    rest.remove_prefix(length == 0 ? 1 : length);
  }
  return output;
}

std::string Utf8Stream::Flush() {
  if (tail_.empty()) return {};
  tail_.clear();
  return std::string(kReplacement);
}

}  // namespace gguf_offload
