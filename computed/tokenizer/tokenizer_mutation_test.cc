// Spoiled vocabularies: Create returns a tokenizer or an error, and a tokenizer that it returns
// works on any text. To be run under AddressSanitizer.
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "computed/tokenizer/pre_tokenizer.h"
#include "computed/tokenizer/testing/manifests.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {
namespace {

using Random = std::mt19937;

std::string RandomBytes(Random* random, size_t longest) {
  static const std::vector<std::string>& parts = *new std::vector<std::string>{
      "a",        "b",        "ab", " ",  "<", ">", "<0x", "41", "\xE2\x96\x81",
      "\xC4\xA0", "\xC3\xA9", "|",  "\n", "1"};
  std::string bytes;
  for (size_t n = (*random)() % (longest + 1); n > 0; --n) {
    if ((*random)() % 8 == 0) {
      bytes.push_back(static_cast<char>((*random)()));
    } else {
      bytes += parts[(*random)() % parts.size()];
    }
  }
  return bytes;
}

// Returns whether `manifest` made a tokenizer.
bool Exercise(const v1::Manifest& manifest, Random* random) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(manifest);
  if (!tokenizer.ok()) {
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(tokenizer.status().message().find("tokenizer.ggml."), absl::string_view::npos);
    return false;
  }
  for (int i = 0; i < 4; ++i) {
    const std::string text = RandomBytes(random, 60);
    const TextRange literal[] = {{(*random)() % 80, (*random)() % 80}, {0, (*random)() % 8}};
    const EncodeOptions options{.add_bos = i % 2 == 0,
                                .add_eos = i % 2 == 0,
                                .parse_special = i < 2,
                                .literal = std::span(literal, (*random)() % 3)};
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, options);
    for (int32_t id : ids) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, (*tokenizer)->vocab_size());
    }
    (*tokenizer)->Decode(ids, i % 2 == 0);
  }
  return true;
}

TEST(TokenizerMutationTest, SpoiledMessages) {
  Random random(11);
  int created = 0;
  for (const char* name :
       {"tiny-spm.gguf", "tiny-bpe.llama-bpe.gguf", "tiny-bpe.deepseek-llm.gguf"}) {
    const std::string original = LoadGoldenManifest(name).SerializeAsString();
    for (int i = 0; i < 150; ++i) {
      std::string spoiled = original;
      for (size_t n = 1 + random() % 3; n > 0; --n) {
        spoiled[random() % spoiled.size()] = static_cast<char>(random());
      }
      v1::Manifest manifest;
      manifest.ParseFromString(spoiled);  // as much of it as there is
      created += Exercise(manifest, &random);
    }
  }
  EXPECT_GT(created, 0);
}

TEST(TokenizerMutationTest, RandomVocabularies) {
  Random random(12);
  const std::vector<std::string_view> names = PreTokenizer::Names();
  int created = 0;
  for (int i = 0; i < 3000; ++i) {
    v1::Manifest manifest;
    const bool is_bpe = random() % 2 == 0;
    SetString(&manifest, "tokenizer.ggml.model", is_bpe ? "gpt2" : "llama");
    SetString(&manifest, "tokenizer.ggml.pre", std::string(names[random() % names.size()]));
    std::vector<std::string> tokens;
    std::vector<int64_t> types;
    std::vector<float> scores;
    for (size_t n = 1 + random() % 30; n > 0; --n) {
      tokens.push_back(RandomBytes(&random, 4) + (random() % 2 ? std::to_string(n) : ""));
      types.push_back(random() % 7);
      if (types.back() == 6) types.back() = 7;  // a byte's name would have to be right
      scores.push_back(static_cast<float>(random() % 5));
    }
    std::vector<std::string> merges;
    for (size_t n = random() % 20; n > 0; --n) {
      merges.push_back(tokens[random() % tokens.size()] + "a " + tokens[random() % tokens.size()] +
                       "b");
    }
    SetStrings(&manifest, "tokenizer.ggml.tokens", tokens);
    SetInts(&manifest, "tokenizer.ggml.token_type", types);
    SetFloats(&manifest, "tokenizer.ggml.scores", scores);
    SetStrings(&manifest, "tokenizer.ggml.merges", merges);
    if (random() % 2) SetUnsigned(&manifest, "tokenizer.ggml.bos_token_id", random() % 32);
    if (random() % 2) SetBool(&manifest, "tokenizer.ggml.add_eos_token", random() % 2);
    created += Exercise(manifest, &random);
  }
  EXPECT_GT(created, 300);
}

}  // namespace
}  // namespace gguf_offload
