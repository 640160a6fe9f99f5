// U+2581, which stands for a space in the token texts of SentencePiece and of what is made like it.
#ifndef COMPUTED_TOKENIZER_SPACE_MARK_H_
#define COMPUTED_TOKENIZER_SPACE_MARK_H_

#include <string>
#include <string_view>

namespace gguf_offload {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// Appends `text` with a mark for each space.
inline void AppendWithSpaceMarks(std::string_view text, std::string* result) {
  for (char c : text) {
    if (c == ' ') {
      result->append(kSpaceMark);
    } else {
      result->push_back(c);
    }
  }
}

// `text` with a space for each mark.
inline std::string WithoutSpaceMarks(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i, kSpaceMark.size()) == kSpaceMark) {
      result.push_back(' ');
      i += kSpaceMark.size();
    } else {
      result.push_back(text[i++]);
    }
  }
  return result;
}

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_SPACE_MARK_H_
