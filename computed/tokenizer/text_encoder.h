// What turns text without special tokens into token ids; one implementation per tokenizer model.
#ifndef COMPUTED_TOKENIZER_TEXT_ENCODER_H_
#define COMPUTED_TOKENIZER_TEXT_ENCODER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gguf_offload {

// Where a text comes from.
struct TextContext {
  // It begins the input or follows a special token.
  bool after_special = false;
  // Part of it was written by users: no markup (Vocabulary::IsMarkup) may come of it.
  bool literal = false;
};

// Immutable, thread safe.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;

  // Appends the ids of `text` (any bytes) to `ids`.
  virtual void Encode(std::string_view text, const TextContext& context,
                      std::vector<int32_t>* ids) const = 0;

  // The bytes that the text of a normal token stands for.
  virtual std::string DecodeText(std::string_view token_text) const = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TEXT_ENCODER_H_
