// Manifests for tests: from the golden vocabularies, and made up from a few tokens.
#ifndef COMPUTED_TOKENIZER_TESTING_MANIFESTS_H_
#define COMPUTED_TOKENIZER_TESTING_MANIFESTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// The metadata of a golden vocabulary, for example "tiny-spm.gguf". Aborts if it is not there.
v1::Manifest LoadGoldenManifest(const std::string& gguf_name);

void SetString(v1::Manifest* manifest, const std::string& key, const std::string& value);
void SetBool(v1::Manifest* manifest, const std::string& key, bool value);
void SetUnsigned(v1::Manifest* manifest, const std::string& key, uint64_t value);
void SetStrings(v1::Manifest* manifest, const std::string& key,
                const std::vector<std::string>& values);
void SetFloats(v1::Manifest* manifest, const std::string& key, const std::vector<float>& values);
void SetInts(v1::Manifest* manifest, const std::string& key, const std::vector<int64_t>& values);

// A text and its token type.
using TestToken = std::pair<std::string, int>;

// "llama" with <unk>, <s>, </s>, all byte tokens from id 3 on, then `tokens` from id 259 on, each
// scored better than the next.
v1::Manifest SentencePieceManifest(const std::vector<TestToken>& tokens);

// "gpt2" with one token a byte (id = byte), then `tokens` from id 256 on, and `merges`.
v1::Manifest BpeManifest(const std::string& pre, const std::vector<TestToken>& tokens,
                         const std::vector<std::string>& merges);

// The character with which byte-level BPE writes `byte`, in UTF-8.
std::string ByteCharacter(uint8_t byte);

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TESTING_MANIFESTS_H_
