#include "computed/tokenizer/unicode.h"

#include <algorithm>
#include <iterator>

namespace gguf_offload {
namespace {

struct ClassRange {
  char32_t first;
  CharClass char_class;
};

constexpr ClassRange kClassRanges[] = {
#include "computed/tokenizer/unicode_ranges.inc"
};

struct CodePointRange {
  char32_t first;
  char32_t last;
};

constexpr CodePointRange kHanRanges[] = {
#include "computed/tokenizer/unicode_han.inc"
};

constexpr char32_t kCodePointLimit = 0x110000;

// One byte a code point: a lookup per character must cost no more than the character's decoding.
std::vector<CharClass> ExpandRanges() {
  std::vector<CharClass> table(kCodePointLimit, CharClass::kOther);
  for (size_t i = 0; i < std::size(kClassRanges); ++i) {
    const char32_t end =
        i + 1 < std::size(kClassRanges) ? kClassRanges[i + 1].first : kCodePointLimit;
    std::fill(table.begin() + kClassRanges[i].first, table.begin() + end,
              kClassRanges[i].char_class);
  }
  return table;
}

const CharClass* ClassTable() {
  static const std::vector<CharClass>& table = *new std::vector<CharClass>(ExpandRanges());
  return table.data();
}

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

CharClass ClassOf(char32_t code_point) {
  return code_point < kCodePointLimit ? ClassTable()[code_point] : CharClass::kOther;
}

size_t DecodeUtf8(std::string_view text, char32_t* code_point) {
  if (text.empty()) return 0;
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) {
    *code_point = lead;
    return 1;
  }
  size_t length = 0;
  char32_t value = 0;
  char32_t smallest = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2, value = lead & 0x1F, smallest = 0x80;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3, value = lead & 0x0F, smallest = 0x800;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4, value = lead & 0x07, smallest = 0x10000;
  }
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[i])) return 0;
    value = value << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
  }
  if (value < smallest || value >= kCodePointLimit || (value >= 0xD800 && value <= 0xDFFF)) {
    return 0;
  }
  *code_point = value;
  return length;
}

bool IsHan(char32_t code_point) {
  const CodePointRange* after =
      std::upper_bound(std::begin(kHanRanges), std::end(kHanRanges), code_point,
                       [](char32_t value, const CodePointRange& r) { return value < r.first; });
  return after != std::begin(kHanRanges) && code_point <= std::prev(after)->last;
}

bool IsValidUtf8(std::string_view text) {
  char32_t unused;
  while (!text.empty()) {
    const size_t length = DecodeUtf8(text, &unused);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

DecodedText::DecodedText(std::string_view text) {
  code_points.reserve(text.size());
  classes.reserve(text.size());
  offsets.reserve(text.size() + 1);
  const CharClass* table = ClassTable();
  for (size_t offset = 0; offset < text.size();) {
    char32_t code_point = kReplacementCharacter;
    const size_t length = DecodeUtf8(text.substr(offset), &code_point);
    if (length == 0) code_point = kReplacementCharacter;
    code_points.push_back(code_point);
    classes.push_back(table[code_point]);
    offsets.push_back(offset);
    offset += length == 0 ? 1 : length;
  }
  offsets.push_back(text.size());
}

}  // namespace gguf_offload
