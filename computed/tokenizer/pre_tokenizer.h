// Splits a text into the words that byte-level BPE merges within, as `tokenizer.ggml.pre` demands.
//
// Each family of models publishes its split as regular expressions in tokenizer.json. What a GGUF
// file's token ids mean is however defined by llama.cpp, which converts and runs them: where its
// result differs from the published expression (it applies some expressions one after the other,
// cannot tell upper from lower case beyond ASCII, and leaves '~' out of \p{S}), its result is the
// one reproduced here. The expressions are matched by hand-written scanners, so that the time is
// linear in the text and no input can reach a backtracking or recursion limit.
#ifndef COMPUTED_TOKENIZER_PRE_TOKENIZER_H_
#define COMPUTED_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {

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

  // The words of `text` in order; together they are exactly `text`. They point into it.
  std::vector<std::string_view> Split(std::string_view text) const;

  // A word that is in the vocabulary as a whole is taken without merging.
  bool ignore_merges() const { return ignore_merges_; }
  // Whether a text starts with BOS if the file does not say.
  bool default_add_bos() const { return default_add_bos_; }

 private:
  PreTokenizer(std::vector<Scanner> scanners, bool ignore_merges, bool default_add_bos)
      : scanners_(std::move(scanners)),
        ignore_merges_(ignore_merges),
        default_add_bos_(default_add_bos) {}

  std::vector<Scanner> scanners_;  // applied in turn, each to the words of the one before
  bool ignore_merges_;
  bool default_add_bos_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_PRE_TOKENIZER_H_
