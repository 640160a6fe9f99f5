// What the pre-tokenizers' scanners are tested against: PCRE2 running regular expressions.
#ifndef COMPUTED_TOKENIZER_TESTING_REGEX_SPLIT_H_
#define COMPUTED_TOKENIZER_TESTING_REGEX_SPLIT_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace gguf_offload {

// One expression, in PCRE2's syntax with Unicode properties. \s is the property White_Space:
// PCRE2's own also has U+180E. Not thread safe. Aborts if the expression is malformed.
class Regex {
 public:
  explicit Regex(const std::string& pattern);

  // Appends the matches in `text`, which is valid UTF-8, and the stretches between them. An empty
  // match cuts the text.
  void Split(std::string_view text, std::vector<std::string_view>* words) const;

  // The matches in `text`, none of them empty.
  std::vector<std::string_view> FindAll(std::string_view text) const;

 private:
  // Finds the first match from `begin`; false if there is none.
  bool Find(std::string_view text, size_t begin, size_t* match_begin, size_t* match_end) const;

  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

// Applies each expression to the words of the one before.
std::vector<std::string_view> SplitByRegexes(const std::vector<Regex>& regexes,
                                             std::string_view text);

// UTF-8 of a code point, which is no surrogate.
std::string ToUtf8(char32_t code_point);

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TESTING_REGEX_SPLIT_H_
