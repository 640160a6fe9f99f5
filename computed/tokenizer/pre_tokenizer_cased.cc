#include <algorithm>

#include "computed/tokenizer/pre_tokenizer_scanners.h"
#include "computed/tokenizer/scan_window.h"

namespace gguf_offload::pre_tokenizer {
namespace {

// In which way the descendants of o200k's expression differ.
struct CasedRules {
  size_t longest_number = 3;
  bool contractions = true;
  bool slashes_after_rest = true;
  bool split_han = false;
};

// The classes U and D (see O200k) of the characters of a window.
class Letters {
 public:
  Letters(const Window& w, bool split_han) : w_(w), split_han_(split_han) {}

  // U: [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  bool IsU(size_t i) const {
    const CharClass c = w_.ClassAt(i);
    return ((c >= CharClass::kUpper && c <= CharClass::kOtherLetter) || c == CharClass::kMark) &&
           !IsExcluded(i);
  }
  // D: [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  bool IsD(size_t i) const {
    const CharClass c = w_.ClassAt(i);
    return c >= CharClass::kModifier && c <= CharClass::kMark && !IsExcluded(i);
  }

 private:
  bool IsExcluded(size_t i) const {
    // Han begins at U+2E80.
    return split_han_ && w_.At(i) >= 0x2E80 && IsHan(w_.At(i));
  }

  const Window& w_;
  const bool split_han_;
};

// U*D+ at `i` (see O200k), or if that does not match U+D*: the end of the match. 0: neither does.
struct CasedMatch {
  size_t lower = 0;  // of U*D+
  size_t upper = 0;  // of U+D*
};

CasedMatch MatchCased(const Window& w, const Letters& letters, size_t i) {
  size_t j = i;
  size_t after_both = 0;  // end of the last character so far that is both U and D
  for (; letters.IsU(j); ++j) {
    if (letters.IsD(j)) after_both = j + 1;
  }
  if (letters.IsD(j)) {
    const size_t end = w.RunEnd(j, [&](size_t k) { return letters.IsD(k); });
    return {.lower = end, .upper = j > i ? end : 0};
  }
  // D+ needs a character, so U* gives some back until the last one that D accepts.
  return {.lower = after_both, .upper = j > i ? j : 0};
}

// PU*D+C|PU+D*C: the end of the match at `i`, or `i`.
size_t CasedWordEnd(const Window& w, const Letters& letters, size_t i, bool contractions) {
  // P takes a character if it can, and gives it back if nothing matches after it.
  const bool prefix = !w.IsLetter(i) && !w.IsNumber(i) && !IsLineBreak(w.At(i));
  const CasedMatch after = prefix ? MatchCased(w, letters, i + 1) : CasedMatch{};
  size_t end = after.lower;
  if (end == 0) {
    const CasedMatch here = MatchCased(w, letters, i);
    end = here.lower > 0 ? here.lower : after.upper > 0 ? after.upper : here.upper;
  }
  if (end == 0) return i;
  return contractions ? end + ContractionLength(w, end, /*ignore_case=*/true) : end;
}

void ScanCasedWords(const DecodedText& text, size_t begin, size_t end, const CasedRules& rules,
                    Ends* ends) {
  const Window w(text, begin, end);
  const Letters letters(w, rules.split_han);
  auto is_rest = [&](size_t k) { return w.IsRest(k); };
  auto match = [&](size_t i) -> size_t {
    if (rules.split_han && w.At(i) >= 0x2E80 && i < w.end() && IsHan(w.At(i))) {
      return w.RunEnd(i, [&](size_t k) { return IsHan(w.At(k)); });
    }
    const size_t word_end = CasedWordEnd(w, letters, i, rules.contractions);
    if (word_end > i) return word_end;
    if (w.IsNumber(i)) {
      const size_t limit = std::min(w.end() - i, rules.longest_number);
      size_t length = 1;
      while (length < limit && w.IsNumber(i + length)) ++length;
      return i + length;
    }
    const size_t rest = w.At(i) == ' ' && is_rest(i + 1) ? i + 1 : i;
    if (is_rest(rest)) {
      return w.RunEnd(w.RunEnd(rest, is_rest), [&](size_t k) {
        return IsLineBreak(w.At(k)) || (rules.slashes_after_rest && w.At(k) == '/');
      });
    }
    return SpaceEnd(w, i, /*line_breaks=*/true);
  };
  ScanMatches(w, match, ends);
}

}  // namespace

void O200k(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanCasedWords(text, begin, end, CasedRules{}, ends);
}

void Tekken(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanCasedWords(text, begin, end, CasedRules{.longest_number = 1, .contractions = false}, ends);
}

void Youtu(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanCasedWords(text, begin, end, CasedRules{.longest_number = 1}, ends);
}

void KimiK2(const DecodedText& text, size_t begin, size_t end, Ends* ends) {
  ScanCasedWords(text, begin, end, CasedRules{.slashes_after_rest = false, .split_han = true},
                 ends);
}

}  // namespace gguf_offload::pre_tokenizer
