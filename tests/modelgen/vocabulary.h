// Byte-level BPE vocabularies that work: any text can be tokenized with them and any token has
// text.
//
// A vocabulary has the 256 byte tokens (in GPT-2's order and GPT-2's spelling of bytes as printable
// characters), tokens trained on a built-in list of English words, then made-up words of open
// syllables up to the size asked for, each with the merge that makes it, and the family's special
// tokens where the real models have them.
#ifndef TESTS_MODELGEN_VOCABULARY_H_
#define TESTS_MODELGEN_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/modelgen/gguf_writer.h"

namespace gguf_offload {

enum class TokenizerFamily { kLlama3, kQwen2, kQwen3, kDeepSeek };

struct Vocabulary {
  std::string pre;                  // tokenizer.ggml.pre
  std::vector<std::string> tokens;  // by token id
  std::vector<int32_t> types;       // by token id: 1 normal, 3 control, 4 user defined, 5 unused
  std::vector<std::string> merges;  // "left right", the most important first
  uint32_t bos = 0;
  uint32_t eos = 0;
  uint32_t padding = 0;
  bool add_bos = false;
};

// The size of the vocabulary of the family's real models.
uint32_t TrueVocabularySize(TokenizerFamily family);

// A vocabulary of exactly `size` tokens. Of the true size, special tokens have their true ids; of
// other sizes, they come last. An error if `size` cannot hold bytes and special tokens.
absl::StatusOr<Vocabulary> MakeVocabulary(TokenizerFamily family, uint32_t size);

// Adds the tokenizer.ggml.* keys.
void AddVocabulary(const Vocabulary& vocabulary, GgufWriter* writer);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_VOCABULARY_H_
