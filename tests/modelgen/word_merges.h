// The tokens and merges that a byte-level BPE tokenizer consists of, special tokens apart.
#ifndef TESTS_MODELGEN_WORD_MERGES_H_
#define TESTS_MODELGEN_WORD_MERGES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace gguf_offload {

struct WordMerges {
  std::vector<std::string> tokens;  // 256 bytes first; distinct
  std::vector<std::string> merges;  // "left right": the i-th makes token 256 + i
};

// `size` >= 256 tokens: bytes, English word pieces, then made-up words. At most a million.
WordMerges MakeWordMerges(uint32_t size);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_WORD_MERGES_H_
