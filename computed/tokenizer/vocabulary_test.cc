#include "computed/tokenizer/vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/log/log.h"
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
  EXPECT_TRUE(Tokenizer::Create(SentencePieceManifest({{"", 1}, {"", 5}})).ok());
}

TEST(VocabularyTest, ByteTokensAreStrictHexadecimal) {
  for (const char* text : {"<0x-1>", "<0x1>", "<0x001>", "<0xG0>", "<0x 1>", "<0x+1>", "0x01",
                           "<0X01>", "<0x01", "x", "<0x0A>\n", "<0x>", "<0x0\xC3\xA9>"}) {
    EXPECT_EQ(ParseByteToken(text), std::nullopt) << text;
    ExpectRefused(SentencePieceManifest({{text, 6}}), "tokenizer.ggml.tokens", "<0xXX>");
  }
  EXPECT_EQ(ParseByteToken("<0x0A>"), 10);
  EXPECT_EQ(ParseByteToken("<0xfF>"), 255);
}

TEST(VocabularyTest, Types) {
  const std::string key = "tokenizer.ggml.token_type";
  v1::Manifest manifest = Spm();
  SetInts(&manifest, key, std::vector<int64_t>(260, 1));
  ExpectRefused(manifest, key, "260 types for 261 tokens");
  SetFloats(&manifest, key, std::vector<float>(261, 1.0f));
  ExpectRefused(manifest, key, "integers");
  manifest = Bpe();
  manifest.mutable_metadata()->erase(key);
  EXPECT_TRUE(Tokenizer::Create(manifest).ok());
}

TEST(VocabularyTest, Scores) {
  const std::string key = "tokenizer.ggml.scores";
  v1::Manifest manifest = Spm();
  SetStrings(&manifest, key, std::vector<std::string>(261, "1"));
  ExpectRefused(manifest, key, "float32");
  // Declared as float32 but carrying something else.
  manifest = Spm();
  v1::MetadataArray* array = (*manifest.mutable_metadata())[key].mutable_array_value();
  array->clear_float_values();
  for (int i = 0; i < 261; ++i) array->add_double_values(0);
  ExpectRefused(manifest, key, "carries 0");
  for (size_t size : {0, 1, 260}) {
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
    SetString(&manifest, key, "1");
    ExpectRefused(manifest, key, "token id");
    SetUnsigned(&manifest, key, 260);
    EXPECT_TRUE(Tokenizer::Create(manifest).ok());
  }
}

TEST(VocabularyTest, AddRules) {
  v1::Manifest manifest = Bpe();
  SetUnsigned(&manifest, "tokenizer.ggml.add_bos_token", 1);
  ExpectRefused(manifest, "tokenizer.ggml.add_bos_token", "bool");
  manifest = Spm();
  SetString(&manifest, "tokenizer.ggml.add_space_prefix", "yes");
  ExpectRefused(manifest, "tokenizer.ggml.add_space_prefix", "bool");
}

TEST(VocabularyTest, Merges) {
  const std::string key = "tokenizer.ggml.merges";
  v1::Manifest manifest = Bpe();
  SetStrings(&manifest, key, {"ab", "", " ", "a", " a", "a "});
  ExpectRefused(manifest, key, "merge 0 \"ab\"");
  // Parts that are no byte characters can never meet; the second part may hold a space.
  SetStrings(&manifest, key, {"\xFF\xFF x", "a b c", "\xE4\xB8\xAD x", "  x"});
  EXPECT_TRUE(Tokenizer::Create(manifest).ok());
  SetInts(&manifest, key, {1});
  ExpectRefused(manifest, key, "strings");
  manifest.mutable_metadata()->erase(key);
  ExpectRefused(manifest, key, "missing");
}

// What others read is read here; each thing that is ignored is logged, once.
class LenienceTest : public ::testing::Test {
 protected:
  LenienceTest() {
    SetLogSink([this](std::string_view line) { lines_.emplace_back(line); });
  }
  ~LenienceTest() override { SetLogSink(nullptr); }

  std::unique_ptr<Tokenizer> Create(const v1::Manifest& manifest) {
    lines_.clear();
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(manifest);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
  }
  // Expects one warning, which holds all of `parts`.
  void ExpectOneWarning(const std::vector<std::string>& parts) {
    ASSERT_EQ(lines_.size(), 1u) << ::testing::PrintToString(lines_);
    EXPECT_NE(lines_[0].find("WARNING"), std::string::npos) << lines_[0];
    for (const std::string& part : parts) {
      EXPECT_NE(lines_[0].find(part), std::string::npos) << lines_[0];
    }
  }

  std::vector<std::string> lines_;
};

using Ids = std::vector<int32_t>;

TEST_F(LenienceTest, WholeNumbersAreScores) {
  v1::Manifest manifest = SentencePieceManifest({{"a", 1}, {"b", 1}, {"ab", 1}, {"ba", 1}});
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  std::vector<int64_t> scores(263, 0);
  scores[261] = -5, scores[262] = -4;
  SetInts(&manifest, "tokenizer.ggml.scores", scores);
  EXPECT_EQ(Create(manifest)->Encode("aba", {}), Ids({259, 262}));
  scores[261] = -3;
  SetInts(&manifest, "tokenizer.ggml.scores", scores);
  EXPECT_EQ(Create(manifest)->Encode("aba", {}), Ids({261, 259}));
  EXPECT_TRUE(lines_.empty());
}

TEST_F(LenienceTest, ArraysLongerThanTheTokens) {
  v1::Manifest manifest = Spm();
  SetFloats(&manifest, "tokenizer.ggml.scores",
            std::vector<float>(300, std::numeric_limits<float>::quiet_NaN()));
  // Only those of tokens are looked at.
  auto* scores = (*manifest.mutable_metadata())["tokenizer.ggml.scores"].mutable_array_value();
  for (int i = 0; i < 261; ++i) scores->set_float_values(i, 0.0f);
  Create(manifest);
  ExpectOneWarning({"tokenizer.ggml.scores", "length=300", "tokens=261"});
  manifest = Bpe();
  std::vector<int64_t> types(300, 3);
  std::fill_n(types.begin(), 257, 1);
  SetInts(&manifest, "tokenizer.ggml.token_type", types);
  EXPECT_EQ(Create(manifest)->Encode("ab", {}), Ids({256}));
  ExpectOneWarning({"tokenizer.ggml.token_type", "length=300", "tokens=257"});
}

TEST_F(LenienceTest, UnknownTypesAreNormal) {
  for (int64_t type : {int64_t{-1}, int64_t{7}, std::numeric_limits<int64_t>::min()}) {
    v1::Manifest manifest = Bpe();
    SetInts(&manifest, "tokenizer.ggml.token_type", std::vector<int64_t>(257, type));
    const auto tokenizer = Create(manifest);
    ExpectOneWarning({"tokenizer.ggml.token_type", "count=257", "token 0"});
    EXPECT_EQ(tokenizer->Encode("ab!", {}), Ids({256, '!'}));
    EXPECT_EQ(tokenizer->Decode(Ids({256, '!'})), "ab!");
  }
  v1::Manifest manifest = Bpe();
  auto* types = (*manifest.mutable_metadata())["tokenizer.ggml.token_type"].mutable_array_value();
  types->Clear();
  types->set_element_type(10);  // uint64
  types->set_length(257);
  for (int i = 0; i < 257; ++i) types->add_unsigned_values(std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(Create(manifest)->Encode("ab", {}), Ids({256}));
}

TEST_F(LenienceTest, SpecialIdsOutOfRangeAreIgnored) {
  for (const char* key :
       {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id", "tokenizer.ggml.unknown_token_id",
        "tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.prefix_token_id"}) {
    v1::Manifest manifest = Bpe();
    for (uint64_t bad : {uint64_t{257}, uint64_t{1} << 31, uint64_t{0xFFFFFFFF},
                         std::numeric_limits<uint64_t>::max()}) {
      SetUnsigned(&manifest, key, bad);
      const auto tokenizer = Create(manifest);
      ExpectOneWarning({key, std::to_string(bad)});
      EXPECT_EQ(tokenizer->bos(), std::nullopt);
      EXPECT_EQ(tokenizer->eos(), std::nullopt);
      EXPECT_EQ(tokenizer->Encode("ab", {.add_bos = true, .add_eos = true}), Ids({256}));
    }
    (*manifest.mutable_metadata())[key].set_signed_value(-1);
    Create(manifest);
    ExpectOneWarning({key, "-1"});
  }
  // As if the file had no id: the tokenizer's own, or the token's name.
  v1::Manifest manifest = Spm();
  SetUnsigned(&manifest, "tokenizer.ggml.bos_token_id", 261);
  EXPECT_EQ(Create(manifest)->bos(), 1);
  manifest = BpeManifest("qwen2", {{"<|fim_pad|>", 1}}, {"a b"});
  SetUnsigned(&manifest, "tokenizer.ggml.fim_pad_token_id", 1000);
  EXPECT_TRUE(Create(manifest)->IsEndOfGeneration(256));
}

TEST_F(LenienceTest, TokensToAddThatAreNotThere) {
  for (const char* key : {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"}) {
    v1::Manifest manifest = Bpe();
    SetBool(&manifest, key, true);
    const auto tokenizer = Create(manifest);
    ExpectOneWarning({key});
    EXPECT_FALSE(tokenizer->adds_bos());
    EXPECT_FALSE(tokenizer->adds_eos());
    EXPECT_EQ(tokenizer->Encode("ab", {.add_bos = true, .add_eos = true}), Ids({256}));
  }
}

TEST_F(LenienceTest, OfRepeatedTokensTheFirstCounts) {
  v1::Manifest manifest = SentencePieceManifest(
      {{"ab", 1}, {"ab", 1}, {"<c>", 3}, {"<c>", 1}, {"<u>", 4}, {"<u>", 4}, {"a", 1}, {"b", 1}});
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  const auto spm = Create(manifest);
  ExpectOneWarning({"tokenizer.ggml.tokens", "count=3", "token 260"});
  EXPECT_EQ(spm->Encode("<c>ab<u>", {.parse_special = true}), Ids({261, 259, 263}));
  EXPECT_EQ(spm->SpecialToken("<u>"), 263);
  EXPECT_EQ(spm->Decode(Ids({260, 264})), "ab<u>");
  manifest =
      BpeManifest("qwen2", {{"ab", 1}, {"ab", 1}, {"<u>", 4}, {"<u>", 4}, {"a", 3}}, {"a b"});
  const auto bpe = Create(manifest);
  ExpectOneWarning({"count=3", "token 257"});
  EXPECT_EQ(bpe->Encode("ab<u>a", {.parse_special = true}), Ids({256, 258, 'a'}));
}

TEST_F(LenienceTest, OfRepeatedByteTokensTheFirstCounts) {
  v1::Manifest manifest = SentencePieceManifest({{"<0x0a>", 6}, {"<0x41>", 6}});
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = Create(manifest);
  ASSERT_EQ(lines_.size(), 2u);  // one for the token, one for the bytes
  EXPECT_NE(lines_[0].find("count=1"), std::string::npos) << lines_[0];
  EXPECT_NE(lines_[1].find("count=2"), std::string::npos) << lines_[1];
  EXPECT_EQ(tokenizer->Encode("A\n", {}), Ids({3 + 'A', 3 + '\n'}));
}

TEST_F(LenienceTest, MergesWithoutTwoParts) {
  v1::Manifest manifest = Bpe();
  for (const std::string bad : {"ab", "", " ", "a", " a", "a "}) {
    SetStrings(&manifest, "tokenizer.ggml.merges", {bad, "a b", bad});
    EXPECT_EQ(Create(manifest)->Encode("ab", {}), Ids({256}));
    ExpectOneWarning({"tokenizer.ggml.merges", "merge 0", "count=2"});
  }
}

// Never the unknown token, which in many files is the end of the text.
TEST_F(LenienceTest, AByteWithoutATokenIsLeftOut) {
  v1::Manifest manifest = Bpe();
  auto* tokens = (*manifest.mutable_metadata())["tokenizer.ggml.tokens"].mutable_array_value();
  tokens->set_bytes_values('x', "unused");
  SetUnsigned(&manifest, "tokenizer.ggml.unknown_token_id", 256);
  const auto tokenizer = Create(manifest);
  EXPECT_TRUE(lines_.empty());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(tokenizer->Encode("axbx", {}), Ids({'a', 'b'}));
  ExpectOneWarning({"byte=120"});
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
