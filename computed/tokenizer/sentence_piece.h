// SentencePiece's byte pair encoding with byte fallback ("llama" in GGUF; Kudo and Richardson,
// "SentencePiece", 2018): characters are merged into the neighbour with which they form the token
// of the highest score, and what forms no token is written as bytes.
#ifndef COMPUTED_TOKENIZER_SENTENCE_PIECE_H_
#define COMPUTED_TOKENIZER_SENTENCE_PIECE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "computed/tokenizer/text_encoder.h"
#include "computed/tokenizer/vocabulary.h"

namespace gguf_offload {

struct SentencePieceOptions {
  // Text at the start or after a special token gets a space in front.
  bool add_space_prefix = true;
  // Drops spaces at both ends and all but one of several.
  bool remove_extra_whitespaces = false;
};

// Immutable, thread safe. n log n in the text.
class SentencePiece : public TextEncoder {
 public:
  // `vocabulary` must outlive the encoder.
  SentencePiece(const Vocabulary* vocabulary, SentencePieceOptions options);

  void Encode(std::string_view text, const TextContext& context,
              std::vector<int32_t>* ids) const override;
  std::string DecodeText(std::string_view token_text) const override;

 private:
  struct Symbol;
  struct Candidate;

  std::string Normalize(std::string_view text, bool after_special) const;
  // Token that text may become, or -1. Literal text becomes no markup.
  int32_t FindText(std::string_view text, bool literal) const;
  void Merge(std::string_view text, bool literal, std::vector<Symbol>* symbols) const;
  void AppendBytes(std::string_view text, std::vector<int32_t>* ids) const;

  const Vocabulary* vocabulary_;
  const SentencePieceOptions options_;
  TokenIndex index_;                      // of the tokens that text may become
  size_t longest_token_ = 0;              // bytes, among those in index_
  std::array<int32_t, 256> byte_tokens_;  // -1: none
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_SENTENCE_PIECE_H_
