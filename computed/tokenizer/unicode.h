// What the pre-tokenizers need to know about Unicode: the class of each character (Unicode
// Character Database 15.1) and a decoder of UTF-8 that never loses a byte.
#ifndef COMPUTED_TOKENIZER_UNICODE_H_
#define COMPUTED_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace gguf_offload {

// General categories as far as the pre-tokenizers tell them apart, except that every White_Space
// character is kSpace.
enum class CharClass : uint8_t {
  kOther = 0,  // control, format, private use, surrogate, unassigned
  // Letters.
  kUpper,        // Lu
  kTitle,        // Lt
  kModifier,     // Lm
  kOtherLetter,  // Lo
  kLower,        // Ll
  kMark,         // M
  // Numbers.
  kDecimal,      // Nd
  kOtherNumber,  // Nl, No
  // Punctuation.
  kConnector,    // Pc
  kPunctuation,  // the others
  kSymbol,       // S
  kSpace,
};

// \p{L}, \p{N}, \p{P}.
inline bool IsLetter(CharClass c) { return c >= CharClass::kUpper && c <= CharClass::kLower; }
inline bool IsNumber(CharClass c) {
  return c >= CharClass::kDecimal && c <= CharClass::kOtherNumber;
}
inline bool IsPunctuation(CharClass c) {
  return c >= CharClass::kConnector && c <= CharClass::kPunctuation;
}

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// Class of a code point; kOther beyond U+10FFFF.
CharClass ClassOf(char32_t code_point);

// Whether a code point's script is Han.
bool IsHan(char32_t code_point);

// Length in bytes of the well-formed UTF-8 sequence at the start of `text` (Unicode 15.0, table
// 3-7: no overlong forms, no surrogates), or 0 if there is none. Stores the code point.
size_t DecodeUtf8(std::string_view text, char32_t* code_point);

// True if all of `text` is well-formed UTF-8.
bool IsValidUtf8(std::string_view text);

// A text's characters in parallel arrays. A byte that belongs to no well-formed sequence counts as
// one character, U+FFFD, so that the offsets still cover every byte of the text.
struct DecodedText {
  std::vector<char32_t> code_points;  // (n)
  std::vector<CharClass> classes;     // (n)
  std::vector<size_t> offsets;        // (n + 1) byte offsets; the last is the text's size

  explicit DecodedText(std::string_view text);
  size_t size() const { return code_points.size(); }
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_UNICODE_H_
