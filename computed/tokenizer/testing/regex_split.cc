#include "computed/tokenizer/testing/regex_split.h"

#include <cstdio>
#include <cstdlib>

namespace gguf_offload {
namespace {

PCRE2_SPTR Units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string WithWhiteSpaceProperty(const std::string& pattern) {
  std::string result;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      result.push_back(pattern[i]);
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      result += "\\p{wspace}";
    } else if (escaped == 'S') {
      result += "\\P{wspace}";
    } else {
      result.push_back('\\');
      result.push_back(escaped);
    }
  }
  return result;
}

[[noreturn]] void Fail(const char* what, std::string_view detail, int code) {
  std::fprintf(stderr, "%s: %.*s (%d)\n", what, static_cast<int>(detail.size()), detail.data(),
               code);
  std::abort();
}

}  // namespace

Regex::Regex(const std::string& pattern) {
  const std::string translated = WithWhiteSpaceProperty(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(Units(translated), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset,
                            nullptr));
  if (code_ == nullptr) Fail("malformed expression", translated.substr(0, offset), error);
  match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
}

bool Regex::Find(std::string_view text, size_t begin, size_t* match_begin,
                 size_t* match_end) const {
  const int count = pcre2_match(code_.get(), Units(text), text.size(), begin, PCRE2_NO_UTF_CHECK,
                                match_.get(), nullptr);
  if (count == PCRE2_ERROR_NOMATCH) return false;
  if (count < 0) Fail("no answer from PCRE2 for", text, count);
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_.get());
  *match_begin = range[0];
  *match_end = range[1];
  return true;
}

void Regex::Split(std::string_view text, std::vector<std::string_view>* words) const {
  size_t begin = 0;  // of what is not yet in `words`
  size_t match_begin = 0;
  size_t match_end = 0;
  for (size_t from = 0; from < text.size() && Find(text, from, &match_begin, &match_end);) {
    if (match_begin == text.size()) break;  // an empty match at the end
    if (match_begin > begin) words->push_back(text.substr(begin, match_begin - begin));
    if (match_end > match_begin) {
      words->push_back(text.substr(match_begin, match_end - match_begin));
    }
    begin = from = match_end;
    if (match_end > match_begin) continue;
    // After an empty match, look from the next character on.
    ++from;
    while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
  }
  if (begin < text.size()) words->push_back(text.substr(begin));
}

std::vector<std::string_view> Regex::FindAll(std::string_view text) const {
  std::vector<std::string_view> matches;
  size_t match_begin = 0;
  size_t match_end = 0;
  for (size_t from = 0; Find(text, from, &match_begin, &match_end); from = match_end) {
    if (match_end == match_begin) break;
    matches.push_back(text.substr(match_begin, match_end - match_begin));
  }
  return matches;
}

std::vector<std::string_view> SplitByRegexes(const std::vector<Regex>& regexes,
                                             std::string_view text) {
  std::vector<std::string_view> words;
  if (!text.empty()) words.push_back(text);
  for (const Regex& regex : regexes) {
    std::vector<std::string_view> finer;
    for (std::string_view word : words) regex.Split(word, &finer);
    words.swap(finer);
  }
  return words;
}

std::string ToUtf8(char32_t c) {
  auto continuation = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), continuation(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), continuation(6), continuation(0)};
  return {static_cast<char>(0xF0 | c >> 18), continuation(12), continuation(6), continuation(0)};
}

}  // namespace gguf_offload
