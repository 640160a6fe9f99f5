// Splits a text into the words that byte pair encoding merges within, as `tokenizer.ggml.pre`
// demands.
//
// The names are those of llama.cpp (src/llama-vocab.cpp, September 2026), which converts models to
// GGUF. What a name means is what its models were trained with: the regular expressions of their
// tokenizer.json, applied one after the other, each to the words of the one before. llama.cpp runs
// approximations of some, and where its result differs from the published expression's (marks and
// the case of letters in o200k's family and Kimi's, white space beyond ASCII in DeepSeek's ranges),
// the published one is what counts here.
//
// The expressions are matched by hand-written scanners, so that the time is linear in the text and
// no input can reach a backtracking or recursion limit.
#ifndef COMPUTED_TOKENIZER_PRE_TOKENIZER_H_
#define COMPUTED_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {

// What else a name says of its vocabularies.
struct PreTokenizerSettings {
  // A word that is in the vocabulary as a whole is taken without merging.
  bool ignore_merges = false;
  // Texts start with BOS if the file does not say, or whatever it says.
  enum AddBos { kNotByDefault, kByDefault, kAlways } add_bos = kNotByDefault;
  // Token texts are text, not bytes written as printable characters: characters are merged, and
  // what is no token is written by tokens <0xXX>.
  bool plain_tokens = false;
  // Token texts have U+2581 for a space.
  bool escape_spaces = false;
  // As ignore_merges, for words of line feeds only.
  bool whole_line_breaks = false;
};

// Immutable, cheap to copy, thread safe.
class PreTokenizer {
 public:
  // A scanner appends to `ends` the ends of the words into which it splits the characters
  // [begin, end) of `text`; the last one is `end`.
  using Scanner = void (*)(const DecodedText& text, size_t begin, size_t end,
                           std::vector<size_t>* ends);

  // `name` as in `tokenizer.ggml.pre`. InvalidArgument naming the key and all known names if it is
  // unknown.
  static absl::StatusOr<PreTokenizer> Create(std::string_view name);

  // All names that Create knows.
  static std::vector<std::string_view> Names();

  // The words of `text` in order; together they are exactly `text`. They point into it.
  std::vector<std::string_view> Split(std::string_view text) const;

  const PreTokenizerSettings& settings() const { return settings_; }

 private:
  PreTokenizer(std::vector<Scanner> scanners, PreTokenizerSettings settings)
      : scanners_(std::move(scanners)), settings_(settings) {}

  std::vector<Scanner> scanners_;  // applied in turn, each to the words of the one before
  PreTokenizerSettings settings_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_PRE_TOKENIZER_H_
