#include "computed/tokenizer/vocabulary.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {
namespace {

// Expects Create to refuse `manifest` with a message that names `key` and holds `detail`.
void ExpectRefused(const v1::Manifest& manifest, const std::string& key,
                   const std::string& detail = "") {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(manifest);
  ASSERT_FALSE(tokenizer.ok()) << key << " " << detail;
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(tokenizer.status().message());
  EXPECT_EQ(message.rfind(key + ":", 0), 0u) << message;
  EXPECT_NE(message.find(detail), std::string::npos) << message;
}

v1::Manifest Spm() { return SentencePieceManifest({{"a", 1}, {"b", 1}}); }
v1::Manifest Bpe() { return BpeManifest("qwen2", {{"ab", 1}}, {"a b"}); }

TEST(VocabularyTest, MakesTheManifestsThatTheOtherTestsSpoil) {
  EXPECT_TRUE(Tokenizer::Create(Spm()).ok());
  EXPECT_TRUE(Tokenizer::Create(Bpe()).ok());
}

TEST(VocabularyTest, Model) {
  ExpectRefused(v1::Manifest(), "tokenizer.ggml.model", "missing");
  v1::Manifest manifest = Spm();
  SetString(&manifest, "tokenizer.ggml.model", "bert");
  ExpectRefused(manifest, "tokenizer.ggml.model", "\"bert\"; supported are llama, gpt2");
  SetUnsigned(&manifest, "tokenizer.ggml.model", 3);
  ExpectRefused(manifest, "tokenizer.ggml.model", "string");
  (*manifest.mutable_metadata())["tokenizer.ggml.model"].set_bytes_value("\xFF");
  ExpectRefused(manifest, "tokenizer.ggml.model", "UTF-8");
}

TEST(VocabularyTest, PreTokenizer) {
  v1::Manifest manifest = Bpe();
  SetString(&manifest, "tokenizer.ggml.pre", "no-such");
  ExpectRefused(manifest, "tokenizer.ggml.pre", "deepseek-v3");
  ExpectRefused(manifest, "tokenizer.ggml.pre", "\"no-such\"");
  SetBool(&manifest, "tokenizer.ggml.pre", true);
  ExpectRefused(manifest, "tokenizer.ggml.pre");
  manifest.mutable_metadata()->erase("tokenizer.ggml.pre");
  EXPECT_TRUE(Tokenizer::Create(manifest).ok());
}

TEST(VocabularyTest, Tokens) {
  const std::string key = "tokenizer.ggml.tokens";
  v1::Manifest manifest = Spm();
  manifest.mutable_metadata()->erase(key);
  ExpectRefused(manifest, key, "missing");
  SetStrings(&manifest, key, {});
  ExpectRefused(manifest, key, "empty");
  SetInts(&manifest, key, {1, 2});
  ExpectRefused(manifest, key, "strings");
  SetString(&manifest, key, "x");
  ExpectRefused(manifest, key, "array");
  manifest = Spm();
  (*manifest.mutable_metadata())[key].mutable_array_value()->set_elided(true);
  ExpectRefused(manifest, key, "leaves the elements out");
  manifest = Spm();
  (*manifest.mutable_metadata())[key].mutable_array_value()->set_length(uint64_t{1} << 60);
  ExpectRefused(manifest, key, "1152921504606846976");
  ExpectRefused(SentencePieceManifest({{"a", 1}, {"a", 1}}), key, "token 260 \"a\" repeats");
  EXPECT_TRUE(Tokenizer::Create(SentencePieceManifest({{"", 1}, {"", 5}})).ok());
}

TEST(VocabularyTest, ByteTokensAreStrictHexadecimal) {
  for (const char* text : {"<0x-1>", "<0x1>", "<0x001>", "<0xG0>", "<0x 1>", "<0x+1>", "0x01",
                           "<0X01>", "<0x01", "x", "<0x0A>\n", "<0x>", "<0x0\xC3\xA9>"}) {
    EXPECT_EQ(ParseByteToken(text), std::nullopt) << text;
    ExpectRefused(SentencePieceManifest({{text, 6}}), "tokenizer.ggml.tokens", "<0xXX>");
  }
  ExpectRefused(SentencePieceManifest({{"<0x0a>", 6}}), "tokenizer.ggml.tokens",
                "repeats token 13");
  EXPECT_EQ(ParseByteToken("<0x0A>"), 10);
  EXPECT_EQ(ParseByteToken("<0xfF>"), 255);
}

TEST(VocabularyTest, Types) {
  const std::string key = "tokenizer.ggml.token_type";
  v1::Manifest manifest = Spm();
  SetInts(&manifest, key, std::vector<int64_t>(260, 1));
  ExpectRefused(manifest, key, "260 types for 261 tokens");
  SetInts(&manifest, key, std::vector<int64_t>(262, 1));
  ExpectRefused(manifest, key, "262 types");
  for (int64_t bad : {int64_t{-1}, int64_t{7}, std::numeric_limits<int64_t>::min()}) {
    SetInts(&manifest, key, std::vector<int64_t>(261, bad));
    ExpectRefused(manifest, key, "token 0 \"<unk>\" has unknown type");
  }
  SetFloats(&manifest, key, std::vector<float>(261, 1.0f));
  ExpectRefused(manifest, key, "integers");
  manifest = Bpe();
  manifest.mutable_metadata()->erase(key);
  EXPECT_TRUE(Tokenizer::Create(manifest).ok());
}

TEST(VocabularyTest, Scores) {
  const std::string key = "tokenizer.ggml.scores";
  v1::Manifest manifest = Spm();
  SetInts(&manifest, key, std::vector<int64_t>(261, 1));
  ExpectRefused(manifest, key, "float32");
  SetStrings(&manifest, key, std::vector<std::string>(261, "1"));
  ExpectRefused(manifest, key, "float32");
  // Declared as float32 but carrying something else.
  manifest = Spm();
  v1::MetadataArray* array = (*manifest.mutable_metadata())[key].mutable_array_value();
  array->clear_float_values();
  for (int i = 0; i < 261; ++i) array->add_double_values(0);
  ExpectRefused(manifest, key, "carries 0");
  for (size_t size : {0, 1, 260, 262}) {
    SetFloats(&manifest, key, std::vector<float>(size, 0.0f));
    ExpectRefused(manifest, key, "scores for 261 tokens");
  }
  SetFloats(&manifest, key, std::vector<float>(261, std::numeric_limits<float>::quiet_NaN()));
  ExpectRefused(manifest, key, "NaN");
  manifest.mutable_metadata()->erase(key);
  ExpectRefused(manifest, key, "missing");
  manifest = Bpe();
  SetFloats(&manifest, key, {1.0f});
  ExpectRefused(manifest, key, "1 scores");
}

TEST(VocabularyTest, SpecialIds) {
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
                          "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.fim_pad_token_id"}) {
    v1::Manifest manifest = Spm();
    for (uint64_t bad : {uint64_t{261}, uint64_t{1} << 31, uint64_t{0xFFFFFFFF},
                         std::numeric_limits<uint64_t>::max()}) {
      SetUnsigned(&manifest, key, bad);
      ExpectRefused(manifest, key, "out of range");
    }
    (*manifest.mutable_metadata())[key].set_signed_value(-1);
    ExpectRefused(manifest, key, "token id");
    SetString(&manifest, key, "1");
    ExpectRefused(manifest, key, "token id");
    SetUnsigned(&manifest, key, 260);
    EXPECT_TRUE(Tokenizer::Create(manifest).ok());
  }
}

TEST(VocabularyTest, AddRules) {
  v1::Manifest manifest = Bpe();
  SetBool(&manifest, "tokenizer.ggml.add_bos_token", true);
  ExpectRefused(manifest, "tokenizer.ggml.add_bos_token", "no such token");
  SetUnsigned(&manifest, "tokenizer.ggml.add_bos_token", 1);
  ExpectRefused(manifest, "tokenizer.ggml.add_bos_token", "bool");
  manifest = Bpe();
  SetBool(&manifest, "tokenizer.ggml.add_eos_token", true);
  ExpectRefused(manifest, "tokenizer.ggml.add_eos_token", "no such token");
  manifest = Spm();
  SetString(&manifest, "tokenizer.ggml.add_space_prefix", "yes");
  ExpectRefused(manifest, "tokenizer.ggml.add_space_prefix", "bool");
}

TEST(VocabularyTest, Merges) {
  const std::string key = "tokenizer.ggml.merges";
  v1::Manifest manifest = Bpe();
  for (const std::string bad : {"ab", "", " ", "a", " a", "a "}) {
    SetStrings(&manifest, key, {"a b", bad});
    ExpectRefused(manifest, key, "merge 1");
  }
  // Parts that are no byte characters can never meet; the second part may hold a space.
  SetStrings(&manifest, key, {"\xFF\xFF x", "a b c", "\xE4\xB8\xAD x", "  x"});
  EXPECT_TRUE(Tokenizer::Create(manifest).ok());
  SetInts(&manifest, key, {1});
  ExpectRefused(manifest, key, "strings");
  manifest.mutable_metadata()->erase(key);
  ExpectRefused(manifest, key, "missing");
}

TEST(VocabularyTest, TinyAndOddVocabulariesWork) {
  v1::Manifest manifest;
  SetString(&manifest, "tokenizer.ggml.model", "llama");
  SetStrings(&manifest, "tokenizer.ggml.tokens", {"\xFF"});
  SetFloats(&manifest, "tokenizer.ggml.scores", {-std::numeric_limits<float>::infinity()});
  const auto spm = Tokenizer::Create(manifest);
  ASSERT_TRUE(spm.ok()) << spm.status();
  EXPECT_EQ((*spm)->bos(), std::nullopt);
  EXPECT_FALSE((*spm)->adds_bos());
  EXPECT_EQ((*spm)->Encode("a\xFF", {.add_bos = true, .add_eos = true}),
            std::vector<int32_t>({0, 0, 0}));
  SetString(&manifest, "tokenizer.ggml.model", "gpt2");
  SetString(&manifest, "tokenizer.ggml.pre", "llama-bpe");
  SetStrings(&manifest, "tokenizer.ggml.merges", {});
  const auto bpe = Tokenizer::Create(manifest);
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_EQ((*bpe)->Encode("hello \xFF", {.add_bos = true, .add_eos = true}),
            std::vector<int32_t>());
}

}  // namespace
}  // namespace gguf_offload
