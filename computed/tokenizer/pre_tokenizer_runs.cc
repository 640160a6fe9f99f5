#include <string_view>

#include "computed/tokenizer/pre_tokenizer_scanners.h"
#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

bool IsHangul(char32_t c) { return (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x3131 && c <= 0x318E); }

bool IsBopomofo(char32_t c) { return c >= 0x3105 && c <= 0x312F; }

bool IsYoutuPunctuation(char32_t c) {
  switch (c) {
    case 0x2014:
    case 0x2018:
    case 0x2019:
    case 0x201C:
    case 0x201D:
    case 0x2026:
    case 0xFF01:
    case 0xFF0C:
    case 0xFF1A:
    case 0xFF1B:
      return true;
    default:
      return (c >= 0x3001 && c <= 0x303F) || (c >= 0xFE30 && c <= 0xFE4F);
  }
}

bool IsCjk(char32_t c) { return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF); }

// The scripts that Afmoe isolates: CJK, kana, radicals, Thai vowels, Lao, Khmer, Burmese, Korean.
bool IsAfmoeScript(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x3040 && c <= 0x30FF) ||
         (c >= 0xFF65 && c <= 0xFF9F) || (c >= 0x2F00 && c <= 0x2FDF) ||
         (c >= 0x0E40 && c <= 0x0EFF) || (c >= 0x1780 && c <= 0x17FF) ||
         (c >= 0x1000 && c <= 0x109F) || (c >= 0xAA60 && c <= 0xAA7F) ||
         (c >= 0xA9E0 && c <= 0xA9FF) || (c >= 0xAC00 && c <= 0xD7AF) ||
         (c >= 0x1100 && c <= 0x11FF);
}

// What ends a word of Bloom, besides white space.
bool IsBloomStop(char32_t c) {
  switch (c) {
    case '(':
    case ')':
    case '|':
    case '.':
    case ',':
    case '!':
    case '?':
    case 0x060C:
    case 0x06D4:
    case 0x0964:
    case 0x2026:
    case 0x3001:
    case 0x3002:
    case 0xFF0C:
      return true;
    default:
      return false;
  }
}

// $+<=>^~| : ASCII's symbols, but for the grave accent.
bool IsAsciiSymbol(char32_t c) {
  return c == '$' || c == '+' || (c >= '<' && c <= '>') || c == '^' || c == '~' || c == '|';
}

// `i` plus the length of `text` if it is at `i`, else `i`.
size_t TextEnd(const Window& w, size_t i, std::string_view text) {
  for (size_t k = 0; k < text.size(); ++k) {
    if (w.At(i + k) != static_cast<unsigned char>(text[k])) return i;
  }
  return i + text.size();
}

}  // namespace

void EachLineBreak(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 1, 1, [&](size_t k) { return IsLineBreak(w.At(k)); }, ends);
}

void Lines(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/false, [&](size_t k) { return w.At(k) == '\n'; }, ends);
}

void NonSpaces(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/false, [&](size_t k) { return !w.IsSpace(k); }, ends);
}

void SpaceLetters(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/true, [&](size_t k) { return w.IsLetter(k); }, ends);
}

void SpacePunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/true, [&](size_t k) { return w.IsPunctuation(k); }, ends);
}

void FalconPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) {
    return w.IsPunctuation(k) || IsAsciiSymbol(w.At(k)) || w.At(k) == '`';
  };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

void DefaultPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) { return w.IsPunctuation(k) || IsAsciiSymbol(w.At(k)); };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

void BloomWords(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) { return k < w.end() && !w.IsSpace(k) && !IsBloomStop(w.At(k)); };
  auto match = [&](size_t i) -> size_t {
    const size_t first = w.At(i) == ' ' ? i + 1 : i;
    return accept(first) ? w.RunEnd(first, accept) : i;
  };
  ScanMatches(w, match, ends);
}

void YoutuScripts(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto match = [&](size_t i) -> size_t {
    for (const auto is_kind : {IsHangul, IsYoutuPunctuation, IsBopomofo, IsCjk}) {
      if (is_kind(w.At(i))) return w.RunEnd(i, [&](size_t k) { return is_kind(w.At(k)); });
    }
    return i;
  };
  ScanMatches(w, match, ends);
}

void AfmoeScripts(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/false, [&](size_t k) { return IsAfmoeScript(w.At(k)); }, ends);
}

void ChameleonSentinels(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto match = [&](size_t i) -> size_t {
    const size_t digits = TextEnd(w, i, "<sentinel:");
    if (digits == i) return i;
    const size_t close = w.RunEnd(digits, [&](size_t k) { return IsAsciiDigit(w.At(k)); });
    return close > digits && w.At(close) == '>' ? close + 1 : i;
  };
  ScanMatches(w, match, ends);
}

void ChameleonImageTokens(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto match = [&](size_t i) -> size_t {
    const size_t letters = TextEnd(w, i, "IMGIMG");
    if (letters == i) return i;
    size_t z = letters;
    while (z < letters + 4 && w.At(z) >= 'A' && w.At(z) <= 'I') ++z;
    return z > letters && w.At(z) == 'Z' ? z + 1 : i;
  };
  ScanMatches(w, match, ends);
}

void ChameleonSpaces(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto match = [&](size_t i) -> size_t {
    if (w.At(i) == '\t' || w.At(i) == '\n') return i + 1;
    const size_t four = TextEnd(w, i, "    ");
    return four > i ? four : TextEnd(w, i, "  ");
  };
  ScanMatches(w, match, ends);
}

void EachPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 1, 1, [&](size_t k) { return w.IsPunctuation(k) || IsAsciiPunctuation(w.At(k)); }, ends);
}

}  // namespace gguf_offload::pre_tokenizer
