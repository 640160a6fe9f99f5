#include "weightd/gguf/utf8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gguf_offload::gguf {
namespace {

bool InRange(uint8_t byte, uint8_t low, uint8_t high) { return byte >= low && byte <= high; }

// Length of the well-formed sequence of more than one byte at the start of `text`; 0 if there is
// none.
size_t SequenceLength(const uint8_t* text, size_t size) {
  const uint8_t lead = text[0];
  size_t length = 0;
  uint8_t low = 0x80, high = 0xBF;  // of the second byte
  if (InRange(lead, 0xC2, 0xDF)) {
    length = 2;
  } else if (InRange(lead, 0xE0, 0xEF)) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;   // shorter forms exist below
    if (lead == 0xED) high = 0x9F;  // surrogates are above
  } else if (InRange(lead, 0xF0, 0xF4)) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  if (length == 0 || length > size || !InRange(text[1], low, high)) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (!InRange(text[i], 0x80, 0xBF)) return 0;
  }
  return length;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  size_t position = 0;
  while (position < text.size()) {
    const size_t left = text.size() - position;
    uint64_t word;
    if (left >= sizeof(word)) {  // most text is ASCII
      std::memcpy(&word, bytes + position, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        position += sizeof(word);
        continue;
      }
    }
    if (bytes[position] < 0x80) {
      ++position;
      continue;
    }
    const size_t length = SequenceLength(bytes + position, left);
    if (length == 0) return false;
    position += length;
  }
  return true;
}

bool IsPrintableUtf8(std::string_view text) {
  const bool has_control = std::any_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte < 0x20 || byte == 0x7F;
  });
  return !has_control && IsValidUtf8(text);
}

}  // namespace gguf_offload::gguf
