#include "computed/tokenizer/pre_tokenizer_scanners.h"
#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

// Appends the ends of groups of three, counted from the right, of the characters [begin, end).
void GroupFromTheRight(size_t begin, size_t end, Ends* ends) {
  for (size_t i = begin + (end - begin - 1) % 3 + 1; i <= end; i += 3) ends->push_back(i);
}

}  // namespace

void EachNumber(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 1, 1, [&](size_t k) { return w.IsNumber(k); }, ends);
}

void NumberTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 1, 3, [&](size_t k) { return w.IsNumber(k); }, ends);
}

void NumberRuns(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanRuns(
      w, /*space_before=*/false, [&](size_t k) { return w.IsNumber(k); }, ends);
}

void AsciiTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 3, 3, [&](size_t k) { return IsAsciiDigit(w.At(k)); }, ends);
}

void NumberTriplesFromTheRight(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  for (size_t i = begin; i < end;) {
    const size_t number = w.RunEnd(i, [&](size_t k) { return !w.IsNumber(k); });
    if (number > i) ends->push_back(number);
    i = w.RunEnd(number, [&](size_t k) { return w.IsNumber(k); });
    if (i > number) GroupFromTheRight(number, i, ends);
  }
}

void DigitTriplesBeforeBoundary(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto is_digit = [&](size_t k) { return w.IsDigit(k); };
  auto is_word = [&](size_t k) {
    return w.IsLetter(k) || w.IsMark(k) || w.Is(k, CharClass::kConnector);
  };
  size_t gap = begin;
  for (size_t i = begin; i < end;) {
    if (!is_digit(i)) {
      ++i;
      continue;
    }
    const size_t digits = i;
    i = w.RunEnd(i, is_digit);
    // Only the end of all the digits can be a boundary.
    if (is_word(i)) continue;
    if (digits > gap) ends->push_back(digits);
    GroupFromTheRight(digits, i, ends);
    gap = i;
  }
  if (gap < end) ends->push_back(end);
}

void CutsBeforeDigitTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  for (size_t i = begin; i < end;) {
    const size_t digits = w.RunEnd(i, [&](size_t k) { return !w.IsDigit(k); });
    i = w.RunEnd(digits, [&](size_t k) { return w.IsDigit(k); });
    for (size_t cut = digits + (i - digits) % 3; cut < i; cut += 3) {
      if (cut > begin) ends->push_back(cut);
    }
  }
  if (begin < end) ends->push_back(end);
}

}  // namespace gguf_offload::pre_tokenizer
