#include <algorithm>
#include <limits>

#include "computed/tokenizer/pre_tokenizer_scanners.h"
#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

constexpr size_t kAnyLength = std::numeric_limits<size_t>::max();

// In which way the descendants of Llama 3's expression differ.
struct WordRules {
  size_t longest_number = 3;
  bool contractions = true;
  bool marks_in_words = false;
  bool spaces_in_words = false;  // as ExaoneMoe
  enum { kNothing, kLineBreaks, kLineBreakOrSlash } after_rest = kLineBreaks;
  bool spaces_by_powers_of_two = false;  // as Jais2
};

// [^\r\n\p{L}\p{N}]?[letters]+: the end of the match at `i`, or `i`.
size_t WordEnd(const Window& w, size_t i, bool marks_in_words) {
  auto in_word = [&](size_t k) { return w.IsLetter(k) || (marks_in_words && w.IsMark(k)); };
  if (in_word(i)) return w.RunEnd(i, in_word);
  if (w.IsNumber(i) || IsLineBreak(w.At(i)) || !in_word(i + 1)) return i;
  return w.RunEnd(i + 1, in_word);
}

// [^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+: letters with marks, and one space between.
size_t PhraseEnd(const Window& w, size_t i) {
  size_t j = i;
  if (!w.IsLetter(i)) {
    if (w.IsNumber(i) || IsLineBreak(w.At(i)) || !w.IsLetter(i + 1)) return i;
    ++j;
  }
  while (true) {
    j = w.RunEnd(j + 1, [&](size_t k) { return w.IsMark(k); });
    if (w.At(j) == ' ' && w.IsLetter(j + 1)) ++j;
    if (!w.IsLetter(j)) return j;
  }
}

// Where the spaces after \s*[\r\n]+ are taken by the largest power of two. Remembers the run of
// spaces that it was last asked about, so that the time stays linear.
class PowersOfTwo {
 public:
  explicit PowersOfTwo(const Window& w) : w_(w) {}

  size_t End(size_t i) {
    if (i >= run_end_) {
      run_end_ = after_break_ = i;
      for (; w_.IsSpace(run_end_); ++run_end_) {
        if (IsLineBreak(w_.At(run_end_))) after_break_ = run_end_ + 1;
      }
    }
    if (after_break_ > i) return after_break_;
    // \s{k}(?!\S) leaves at least one space to a word that follows.
    const size_t available = run_end_ - i - (run_end_ < w_.end() && run_end_ > i ? 1 : 0);
    for (size_t length = 512; length >= 4; length /= 2) {
      if (available >= length) return i + length;
    }
    return i + std::min<size_t>(run_end_ - i, std::max<size_t>(1, std::min<size_t>(available, 2)));
  }

 private:
  const Window& w_;
  size_t run_end_ = 0;
  size_t after_break_ = 0;
};

// What follows punctuation and belongs to it.
size_t TailEnd(const Window& w, size_t i, const WordRules& rules) {
  switch (rules.after_rest) {
    case WordRules::kNothing:
      break;
    case WordRules::kLineBreaks:
      return w.RunEnd(i, [&](size_t k) { return IsLineBreak(w.At(k)); });
    case WordRules::kLineBreakOrSlash:
      return IsLineBreak(w.At(i)) || w.At(i) == '/' ? i + 1 : i;
  }
  return i;
}

void ScanWords(const DecodedText& text, size_t begin, size_t end, const WordRules& rules,
               Ends* ends) {
  const Window w(text, begin, end);
  PowersOfTwo powers_of_two(w);
  auto is_rest = [&](size_t k) { return w.IsRest(k) && !(rules.marks_in_words && w.IsMark(k)); };
  auto match = [&](size_t i) -> size_t {
    if (rules.contractions) {
      const size_t length = ContractionLength(w, i, /*ignore_case=*/true);
      if (length > 0) return i + length;
    }
    const size_t word_end =
        rules.spaces_in_words ? PhraseEnd(w, i) : WordEnd(w, i, rules.marks_in_words);
    if (word_end > i) return word_end;
    if (w.IsNumber(i)) {
      const size_t limit = std::min(w.end() - i, rules.longest_number);
      size_t length = 1;
      while (length < limit && w.IsNumber(i + length)) ++length;
      return i + length;
    }
    const size_t rest = w.At(i) == ' ' && is_rest(i + 1) ? i + 1 : i;
    if (is_rest(rest)) return TailEnd(w, w.RunEnd(rest, is_rest), rules);
    if (rules.spaces_by_powers_of_two) return powers_of_two.End(i);
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
  ScanWords(text, begin, end, WordRules{.longest_number = 1, .after_rest = WordRules::kNothing},
            ends);
}

void Ufakzeka(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.longest_number = 1, .contractions = false}, ends);
}

void MiniCpm5(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.longest_number = kAnyLength}, ends);
}

void Jais2(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(text, begin, end, WordRules{.spaces_by_powers_of_two = true}, ends);
}

void ExaoneMoe(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanWords(
      text, begin, end,
      WordRules{
          .longest_number = 1, .spaces_in_words = true, .after_rest = WordRules::kLineBreakOrSlash},
      ends);
}

}  // namespace gguf_offload::pre_tokenizer
