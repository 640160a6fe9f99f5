#include "computed/tokenizer/pre_tokenizer_scanners.h"

#include <algorithm>

#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

// Length of 's, 't, 'm, 'd, 're, 've or 'll at `i`, or 0.
size_t ContractionLength(const Window& w, size_t i, bool ignore_case) {
  if (w.At(i) != '\'') return 0;
  auto letter = [&](size_t k) -> char32_t {
    const char32_t c = w.At(k);
    return ignore_case && IsAsciiUpper(c) ? c + ('a' - 'A') : c;
  };
  const char32_t a = letter(i + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  const char32_t b = letter(i + 2);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

// In which way the descendants of Llama 3's expression differ.
struct WordRules {
  size_t longest_number = 3;
  bool marks_in_words = false;
  bool line_breaks_after_rest = true;
  bool slashes_after_rest = false;
  bool split_case = false;
  bool split_han = false;
  enum {
    kNoContractions,
    kContractionsFirst,
    kContractionsAttached
  } contractions = kContractionsFirst;
};

// What the reference takes for \p{Han}.
bool IsHan(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2EBEF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// U*D+|U+D* for the letters from `i` (see Gpt4o): the end of the match, or `i`.
size_t CasedWordEnd(const Window& w, size_t i) {
  size_t j = i;
  size_t after_both = i;  // behind the last letter so far that is both U and D
  for (; w.IsLetter(j) && !IsAsciiLower(w.At(j)); ++j) {
    if (!IsAsciiUpper(w.At(j))) after_both = j + 1;
  }
  if (w.IsLetter(j)) {  // a lower-case letter: D+ takes it and what follows
    return w.RunEnd(j, [&](size_t k) { return w.IsLetter(k) && !IsAsciiUpper(w.At(k)); });
  }
  // D+ needs a letter, so U* gives letters back until the last one that D accepts.
  return after_both > i ? after_both : j;
}

// [^\r\n\p{L}\p{N}]?\p{L}+ and its variants: the end of the match at `i`, or `i`.
size_t WordEnd(const Window& w, size_t i, const WordRules& rules) {
  auto in_word = [&](size_t k) {
    if (rules.split_han && w.IsLetter(k) && IsHan(w.At(k))) return false;
    return w.IsLetter(k) || (rules.marks_in_words && w.IsMark(k));
  };
  size_t start = i;
  if (!in_word(i)) {
    if (w.IsLetter(i) || w.IsNumber(i) || IsLineBreak(w.At(i)) || !in_word(i + 1)) return i;
    start = i + 1;
  }
  size_t end = rules.split_case ? CasedWordEnd(w, start) : w.RunEnd(start, in_word);
  if (rules.contractions == WordRules::kContractionsAttached) {
    end += ContractionLength(w, end, /*ignore_case=*/true);
  }
  return end;
}

void ScanWords(const DecodedText& text, size_t begin, size_t end, const WordRules& rules,
               Ends* ends) {
  const Window w(text, begin, end);
  auto is_rest = [&](size_t k) { return w.IsRest(k) && !(rules.marks_in_words && w.IsMark(k)); };
  auto match = [&](size_t i) -> size_t {
    if (rules.split_han && IsHan(w.At(i))) {
      return w.RunEnd(i, [&](size_t k) { return IsHan(w.At(k)); });
    }
    if (rules.contractions == WordRules::kContractionsFirst) {
      const size_t length = ContractionLength(w, i, /*ignore_case=*/true);
      if (length > 0) return i + length;
    }
    const size_t word_end = WordEnd(w, i, rules);
    if (word_end > i) return word_end;
    if (w.IsNumber(i)) {
      const size_t limit = std::min(w.end() - i, rules.longest_number);
      size_t length = 1;
      while (length < limit && w.IsNumber(i + length)) ++length;
      return i + length;
    }
    const size_t rest = w.At(i) == ' ' && is_rest(i + 1) ? i + 1 : i;
    if (is_rest(rest)) {
      const size_t rest_end = w.RunEnd(rest, is_rest);
      return w.RunEnd(rest_end, [&](size_t k) {
        return (rules.line_breaks_after_rest && IsLineBreak(w.At(k))) ||
               (rules.slashes_after_rest && w.At(k) == '/');
      });
    }
    return SpaceEnd(w, i, /*line_breaks=*/true);
  };
  ScanMatches(w, match, ends);
}

}  // namespace

void Gpt2(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto match = [&](size_t i) -> size_t {
    const size_t contraction = ContractionLength(w, i, /*ignore_case=*/false);
    if (contraction > 0) return i + contraction;
    const size_t first = w.At(i) == ' ' ? i + 1 : i;
    if (w.IsLetter(first)) return w.RunEnd(first, [&](size_t k) { return w.IsLetter(k); });
    if (w.IsNumber(first)) return w.RunEnd(first, [&](size_t k) { return w.IsNumber(k); });
    if (w.IsRest(first)) return w.RunEnd(first, [&](size_t k) { return w.IsRest(k); });
    return SpaceEnd(w, i, /*line_breaks=*/false);
  };
  ScanMatches(w, match, ends);
}

void Llama3(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{}, ends);
}

void Qwen2(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.longest_number = 1}, ends);
}

void Qwen35(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.longest_number = 1, .marks_in_words = true}, ends);
}

void SeedCoder(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.longest_number = 1, .line_breaks_after_rest = false},
            ends);
}

void Gpt4o(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end,
            WordRules{.slashes_after_rest = true,
                      .split_case = true,
                      .contractions = WordRules::kContractionsAttached},
            ends);
}

void Tekken(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end,
            WordRules{.longest_number = 1,
                      .slashes_after_rest = true,
                      .split_case = true,
                      .contractions = WordRules::kNoContractions},
            ends);
}

void KimiK2(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end,
            WordRules{.split_han = true, .contractions = WordRules::kContractionsAttached}, ends);
}

void EachLineBreak(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  ScanGroups(
      w, 1, 1, [&](size_t k) { return IsLineBreak(w.At(k)); }, ends);
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
      w, 3, 3, [&](size_t k) { return w.At(k) >= '0' && w.At(k) <= '9'; }, ends);
}

void DefaultPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) {
    const char32_t c = w.At(k);
    return w.IsPunctuation(k) || c == '$' || c == '+' || (c >= '<' && c <= '>') || c == '^' ||
           c == '~' || c == '|';
  };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

void FalconPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  const Window w(text, begin, end);
  auto accept = [&](size_t k) {
    const char32_t c = w.At(k);
    return w.IsPunctuation(k) || c == '$' || c == '+' || (c >= '<' && c <= '>') || c == '^' ||
           c == '~' || c == '|' || c == '`';
  };
  ScanRuns(w, /*space_before=*/false, accept, ends);
}

}  // namespace gguf_offload::pre_tokenizer
