#include "tests/modelgen/vocabulary.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace gguf_offload {
namespace {

struct RealVocabulary {
  TokenizerFamily family;
  uint32_t size;
  const char* pre;
  uint32_t bos;
  uint32_t eos;
  bool add_bos;
  std::map<uint32_t, std::string> tokens;  // some that are known
};

std::vector<RealVocabulary> RealVocabularies() {
  const std::string bar = "\uff5c";
  return {
      {TokenizerFamily::kLlama3,
       128256,
       "llama-bpe",
       128000,
       128009,
       true,
       {{0, "!"},
        {128000, "<|begin_of_text|>"},
        {128006, "<|start_header_id|>"},
        {128009, "<|eot_id|>"},
        {128255, "<|reserved_special_token_250|>"}}},
      {TokenizerFamily::kQwen2,
       151936,
       "qwen2",
       151643,
       151645,
       false,
       {{0, "!"},
        {198, "\u010a"},
        {151643, "<|endoftext|>"},
        {151644, "<|im_start|>"},
        {151645, "<|im_end|>"},
        {151664, "<|file_sep|>"}}},
      {TokenizerFamily::kQwen3,
       151936,
       "qwen2",
       151643,
       151645,
       false,
       {{151657, "<tool_call>"}, {151667, "<think>"}, {151668, "</think>"}}},
      {TokenizerFamily::kDeepSeek,
       129280,
       "deepseek-v3",
       0,
       1,
       true,
       {{0, "<" + bar + "begin\u2581of\u2581sentence" + bar + ">"},
        {3, "!"},
        {128803, "<" + bar + "User" + bar + ">"},
        {128804, "<" + bar + "Assistant" + bar + ">"}}},
  };
}

void ExpectConsistent(const Vocabulary& vocabulary, uint32_t size) {
  ASSERT_EQ(vocabulary.tokens.size(), size);
  ASSERT_EQ(vocabulary.types.size(), size);
  const std::set<std::string> tokens(vocabulary.tokens.begin(), vocabulary.tokens.end());
  EXPECT_EQ(tokens.size(), size) << "tokens are not distinct";
  std::set<std::string> merges;
  for (const std::string& merge : vocabulary.merges) {
    EXPECT_TRUE(merges.insert(merge).second) << merge;
    const size_t space = merge.find(' ');
    ASSERT_NE(space, std::string::npos) << merge;
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    ASSERT_TRUE(tokens.contains(left) && tokens.contains(right) && tokens.contains(left + right))
        << merge;
  }
  const auto normal = std::count(vocabulary.types.begin(), vocabulary.types.end(), 1);
  EXPECT_EQ(static_cast<size_t>(normal), 256 + vocabulary.merges.size());
  EXPECT_EQ(vocabulary.types.at(vocabulary.bos), 3);
  EXPECT_EQ(vocabulary.types.at(vocabulary.eos), 3);
  EXPECT_LT(vocabulary.padding, size);
}

TEST(VocabularyTest, TrueSizesHaveTheTrueSpecialTokens) {
  for (const RealVocabulary& real : RealVocabularies()) {
    SCOPED_TRACE(real.pre);
    EXPECT_EQ(TrueVocabularySize(real.family), real.size);
    const absl::StatusOr<Vocabulary> vocabulary = MakeVocabulary(real.family, real.size);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    ExpectConsistent(*vocabulary, real.size);
    EXPECT_EQ(vocabulary->pre, real.pre);
    EXPECT_EQ(vocabulary->bos, real.bos);
    EXPECT_EQ(vocabulary->eos, real.eos);
    EXPECT_EQ(vocabulary->add_bos, real.add_bos);
    for (const auto& [id, text] : real.tokens) EXPECT_EQ(vocabulary->tokens[id], text) << id;
  }
}

TEST(VocabularyTest, SmallSizesWork) {
  for (const RealVocabulary& real : RealVocabularies()) {
    for (const uint32_t size : {512u, 1000u, 4096u, 32000u}) {
      SCOPED_TRACE(size);
      const absl::StatusOr<Vocabulary> vocabulary = MakeVocabulary(real.family, size);
      ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
      ExpectConsistent(*vocabulary, size);
    }
  }
}

TEST(VocabularyTest, CommonWordsAreTokens) {
  const absl::StatusOr<Vocabulary> vocabulary = MakeVocabulary(TokenizerFamily::kQwen2, 4096);
  ASSERT_TRUE(vocabulary.ok());
  const std::set<std::string> tokens(vocabulary->tokens.begin(), vocabulary->tokens.end());
  for (const char* word : {"\u0120the", "\u0120water", "\u0120people", "the", "\u0120\u0120"}) {
    EXPECT_TRUE(tokens.contains(word)) << word;
  }
}

TEST(VocabularyTest, TooSmallIsAnError) {
  for (const uint32_t size : {0u, 1u, 256u, 265u}) {
    EXPECT_EQ(MakeVocabulary(TokenizerFamily::kLlama3, size).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
  EXPECT_TRUE(MakeVocabulary(TokenizerFamily::kLlama3, 266).ok());
  EXPECT_FALSE(MakeVocabulary(TokenizerFamily::kLlama3, 4000000000u).ok());
}

}  // namespace
}  // namespace gguf_offload
