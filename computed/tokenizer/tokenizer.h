// Text to token ids and back, as the GGUF metadata of a model define it. The measure of correctness
// is llama.cpp: for the same file and text the ids are the same, but where it is known not to do
// what the model's own tokenizer does (see pre_tokenizer.h). Decoding gives the exact bytes back:
// no space is dropped before punctuation.
#ifndef COMPUTED_TOKENIZER_TOKENIZER_H_
#define COMPUTED_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/tokenizer/text_range.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

struct EncodeOptions {
  // Put BOS in front where the model wants it (adds_bos()).
  bool add_bos = false;
  // Put EOS at the end where the model wants it (adds_eos()). Not for a text to be continued.
  bool add_eos = false;
  // Read the texts of control tokens, such as "<|im_start|>", as these tokens. Otherwise they are
  // ordinary text. User-defined tokens, such as "<think>" in many models, are found either way.
  bool parse_special = false;
  // What users wrote, within a text made by a template. No control, unknown or user-defined token
  // is made of these bytes or of some of them, except user-defined ones of white space alone. They
  // are words together with the text around them, whose ids do not depend on where a range ends.
  // In any order; what lies outside the text is ignored.
  std::span<const TextRange> literal = {};
};

// Immutable, thread safe.
class Tokenizer {
 public:
  // Supports `tokenizer.ggml.model` "llama" (SentencePiece), "gpt2" (byte pair encoding with the
  // pre-tokenizers that pre_tokenizer.cc lists) and "gemma4". InvalidArgument naming the metadata
  // key if the vocabulary is malformed or of another kind. Keeps nothing of `manifest`.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const v1::Manifest& manifest);

  virtual ~Tokenizer() = default;

  // `text` may be any bytes. Those that are no valid UTF-8 are encoded byte by byte.
  virtual std::vector<int32_t> Encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  // The bytes that a token adds to the output; a character may be spread over several tokens.
  // Control and unknown tokens add nothing unless `render_special`. Ids out of range add nothing.
  virtual std::string TokenBytes(int32_t id, bool render_special = false) const = 0;

  // The text of a whole sequence. Where Encode puts a space in front of a text (add_space_prefix),
  // it is taken away again.
  virtual std::string Decode(std::span<const int32_t> ids, bool render_special = false) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  virtual bool adds_bos() const = 0;
  virtual bool adds_eos() const = 0;
  virtual bool adds_space_prefix() const = 0;

  // The control, unknown or user-defined token of this name, such as "<|im_end|>".
  virtual std::optional<int32_t> SpecialToken(std::string_view name) const = 0;

  // True for EOS, end of turn, end of message, and tokens known by name to end an answer.
  virtual bool IsEndOfGeneration(int32_t id) const = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TOKENIZER_H_
