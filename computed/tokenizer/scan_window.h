// Building blocks of the pre-tokenizers' scanners.
#ifndef COMPUTED_TOKENIZER_SCAN_WINDOW_H_
#define COMPUTED_TOKENIZER_SCAN_WINDOW_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "computed/tokenizer/unicode.h"

namespace gguf_offload::pre_tokenizer {

inline constexpr char32_t kNone = 0xFFFFFFFF;

inline bool IsLineBreak(char32_t c) { return c == '\r' || c == '\n'; }
inline bool IsAsciiLower(char32_t c) { return c >= 'a' && c <= 'z'; }
inline bool IsAsciiUpper(char32_t c) { return c >= 'A' && c <= 'Z'; }
inline bool IsAsciiLetter(char32_t c) { return IsAsciiLower(c) || IsAsciiUpper(c); }
inline bool IsAsciiDigit(char32_t c) { return c >= '0' && c <= '9'; }
inline bool IsAsciiPunctuation(char32_t c) {
  return c > ' ' && c < 0x7F && !IsAsciiLetter(c) && !IsAsciiDigit(c);
}

// The characters [begin, end) of a text. Positions outside have class kOther and character kNone,
// and no predicate holds for them.
class Window {
 public:
  Window(const DecodedText& text, size_t begin, size_t end)
      : text_(text), begin_(begin), end_(end) {}

  size_t begin() const { return begin_; }
  size_t end() const { return end_; }
  char32_t At(size_t i) const { return i < end_ ? text_.code_points[i] : kNone; }
  CharClass ClassAt(size_t i) const { return i < end_ ? text_.classes[i] : CharClass::kOther; }
  bool Is(size_t i, CharClass wanted) const { return i < end_ && text_.classes[i] == wanted; }
  bool IsLetter(size_t i) const { return i < end_ && gguf_offload::IsLetter(text_.classes[i]); }
  bool IsNumber(size_t i) const { return i < end_ && gguf_offload::IsNumber(text_.classes[i]); }
  bool IsDigit(size_t i) const { return Is(i, CharClass::kDecimal); }
  bool IsSpace(size_t i) const { return Is(i, CharClass::kSpace); }
  bool IsMark(size_t i) const { return Is(i, CharClass::kMark); }
  bool IsPunctuation(size_t i) const {
    return i < end_ && gguf_offload::IsPunctuation(text_.classes[i]);
  }
  bool IsSymbol(size_t i) const { return Is(i, CharClass::kSymbol); }
  // [^\s\p{L}\p{N}]
  bool IsRest(size_t i) const { return i < end_ && !IsLetter(i) && !IsNumber(i) && !IsSpace(i); }

  // End of the run of characters from `i` for which `predicate` holds.
  template <typename Predicate>
  size_t RunEnd(size_t i, Predicate predicate) const {
    while (i < end_ && predicate(i)) ++i;
    return i;
  }

 private:
  const DecodedText& text_;
  const size_t begin_;
  const size_t end_;
};

// Appends the ends of the matches and of the stretches between them. `match(i)` is the end of the
// match that starts at `i`, or `i` if there is none.
template <typename Match>
void ScanMatches(const Window& w, Match match, std::vector<size_t>* ends) {
  size_t gap = w.begin();
  for (size_t i = w.begin(); i < w.end();) {
    const size_t match_end = match(i);
    if (match_end == i) {
      ++i;
      continue;
    }
    if (i > gap) ends->push_back(i);
    ends->push_back(match_end);
    gap = i = match_end;
  }
  if (gap < w.end()) ends->push_back(w.end());
}

// Length of 's, 't, 'm, 'd, 're, 've or 'll at `i`, or 0. Without regard to case, U+017F is an s.
inline size_t ContractionLength(const Window& w, size_t i, bool ignore_case) {
  if (w.At(i) != '\'') return 0;
  auto letter = [&](size_t k) -> char32_t {
    const char32_t c = w.At(k);
    if (!ignore_case) return c;
    return c == 0x17F ? 's' : IsAsciiUpper(c) ? c + ('a' - 'A') : c;
  };
  const char32_t a = letter(i + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  const char32_t b = letter(i + 2);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ (without the first alternative if `line_breaks` is false): the end of
// the match at `i`, or `i`.
inline size_t SpaceEnd(const Window& w, size_t i, bool line_breaks) {
  size_t after_break = i;
  size_t j = i;
  for (; w.IsSpace(j); ++j) {
    if (line_breaks && IsLineBreak(w.At(j))) after_break = j + 1;
  }
  if (after_break > i) return after_break;
  // The last space before a word belongs to the word.
  return j < w.end() && j - i > 1 ? j - 1 : j;
}

// \s?[accepted]+ or [accepted]+
template <typename Accept>
void ScanRuns(const Window& w, bool space_before, Accept accept, std::vector<size_t>* ends) {
  auto match = [&](size_t i) -> size_t {
    // A space that is itself accepted opens the run either way.
    if (accept(i)) return w.RunEnd(i, accept);
    if (space_before && w.IsSpace(i) && i + 1 < w.end() && accept(i + 1)) {
      return w.RunEnd(i + 1, accept);
    }
    return i;
  };
  ScanMatches(w, match, ends);
}

// (?:accepted){1,longest}
template <typename Accept>
void ScanGroups(const Window& w, size_t shortest, size_t longest, Accept accept,
                std::vector<size_t>* ends) {
  auto match = [&](size_t i) -> size_t {
    const size_t limit = i + std::min(w.end() - i, longest);
    size_t j = i;
    while (j < limit && accept(j)) ++j;
    return j - i >= shortest ? j : i;
  };
  ScanMatches(w, match, ends);
}

}  // namespace gguf_offload::pre_tokenizer

#endif  // COMPUTED_TOKENIZER_SCAN_WINDOW_H_
