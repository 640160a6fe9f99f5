#include "computed/tokenizer/pre_tokenizer_scanners.h"

#include <algorithm>
#include <iterator>

#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// The cased letters that DeepSeek LLM's tokenizer.json lists, in ascending order.
constexpr CodePointRange kDeepSeekLlmLetters[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},
    {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},
    {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x377},     {0x37B, 0x37D},
    {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},
    {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
    {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},
    {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},
    {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
    {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},
    {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},
    {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
    {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},
    {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
    {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};

bool IsDeepSeekLlmLetter(char32_t c) {
  const CodePointRange* after =
      std::upper_bound(std::begin(kDeepSeekLlmLetters), std::end(kDeepSeekLlmLetters), c,
                       [](char32_t value, const CodePointRange& r) { return value < r.first; });
  return after != std::begin(kDeepSeekLlmLetters) && c <= std::prev(after)->last;
}

bool IsDeepSeekLlmPunctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '~') || (c >= 0xFF01 && c <= 0xFF0F) ||
         (c >= 0xFF1A && c <= 0xFF5E) || (c >= 0x2018 && c <= 0x201F) ||
         (c >= 0x3000 && c <= 0x3002);
}

// `join_line_breaks`: punctuation and spaces take the line breaks after them, of which each is a
// word otherwise.
void ScanWords(const DecodedText& text, size_t begin, size_t end, bool join_line_breaks,
               Ends* ends) {
  const Window w(text, begin, end);
  auto is_ascii_letter = [&](size_t k) { return IsAsciiLetter(w.At(k)); };
  auto in_word = [&](size_t k) { return w.IsLetter(k) || w.IsMark(k); };
  auto is_sign = [&](size_t k) { return w.IsPunctuation(k) || w.IsSymbol(k); };
  auto match = [&](size_t i) -> size_t {
    if (IsAsciiPunctuation(w.At(i)) && i + 1 < w.end() && is_ascii_letter(i + 1)) {
      return w.RunEnd(i + 1, is_ascii_letter);
    }
    if (in_word(i)) return w.RunEnd(i, in_word);
    if (!IsLineBreak(w.At(i)) && !is_sign(i) && i + 1 < w.end() && in_word(i + 1)) {
      return w.RunEnd(i + 1, in_word);
    }
    const size_t first = w.At(i) == ' ' && i + 1 < w.end() && is_sign(i + 1) ? i + 1 : i;
    if (is_sign(first)) {
      const size_t sign_end = w.RunEnd(first, is_sign);
      if (!join_line_breaks) return sign_end;
      return w.RunEnd(sign_end, [&](size_t k) { return IsLineBreak(w.At(k)); });
    }
    if (!join_line_breaks && IsLineBreak(w.At(i))) return i + 1;
    return SpaceEnd(w, i, join_line_breaks);
  };
  ScanMatches(w, match, ends);
}

}  // namespace

void DeepSeekV3Words(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, /*join_line_breaks=*/true, ends);
}

void SparkWords(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, /*join_line_breaks=*/false, ends);
}

void DeepSeekLlmLetters(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/true, [&](size_t k) { return IsDeepSeekLlmLetter(w.At(k)); }, ends);
}

void DeepSeekLlmPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/true, [&](size_t k) { return IsDeepSeekLlmPunctuation(w.At(k)); }, ends);
}

void TrailingSpace(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  size_t space = end;
  while (space > begin && text.classes[space - 1] == CharClass::kSpace) --space;
  if (space > begin) ends->push_back(space);
  if (space < end) ends->push_back(end);
}

void DeepSeekCjk(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) {
    const char32_t c = w.At(k);
    return (c >= 0x0800 && c <= 0x9FA5) || (c >= 0xAC00 && c <= 0xD7FF);
  };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

void DeepSeekV3Cjk(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) {
    const char32_t c = w.At(k);
    return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF);
  };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

}  // namespace gguf_offload::pre_tokenizer
