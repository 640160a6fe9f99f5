// A stretch of a text.
#ifndef COMPUTED_TOKENIZER_TEXT_RANGE_H_
#define COMPUTED_TOKENIZER_TEXT_RANGE_H_

#include <cstddef>

namespace gguf_offload {

// The bytes [begin, end).
struct TextRange {
  size_t begin = 0;
  size_t end = 0;

  friend bool operator==(const TextRange&, const TextRange&) = default;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TEXT_RANGE_H_
