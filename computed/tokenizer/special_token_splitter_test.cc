#include "computed/tokenizer/special_token_splitter.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"

namespace gguf_offload {
namespace {

Vocabulary WithTokens(const std::vector<TestToken>& tokens) {
  return *Vocabulary::Parse(SentencePieceManifest(tokens));
}

// "text" for text, "[7]" for a token.
std::string Render(const std::vector<TextFragment>& fragments) {
  std::string result;
  for (const TextFragment& fragment : fragments) {
    result += fragment.token < 0 ? std::string(fragment.text)
                                 : "[" + std::to_string(fragment.token - 259) + "]";
    result += "|";
  }
  return result;
}

TEST(SpecialTokenSplitterTest, ControlTokensOnlyOnDemand) {
  const Vocabulary vocabulary = WithTokens({{"<c>", 3}, {"<u>", 4}, {"<k>", 2}, {"<n>", 1}});
  const SpecialTokenSplitter splitter(vocabulary);
  EXPECT_EQ(Render(splitter.Split("a<c>b<u><k><n>", true)), "a|[0]|b|[1]|[2]|<n>|");
  EXPECT_EQ(Render(splitter.Split("a<c>b<u><k><n>", false)), "a<c>b|[1]|<k><n>|");
  EXPECT_EQ(Render(splitter.Split("", true)), "");
  EXPECT_EQ(Render(splitter.Split("<c", true)), "<c|");
}

TEST(SpecialTokenSplitterTest, LongerTokensWinEvenFurtherRight) {
  const Vocabulary vocabulary = WithTokens({{"xy", 4}, {"yzzz", 4}, {"x", 4}, {"zz", 4}});
  const SpecialTokenSplitter splitter(vocabulary);
  EXPECT_EQ(Render(splitter.Split("xyzzz", false)), "[2]|[1]|");
  EXPECT_EQ(Render(splitter.Split("xyzz", false)), "[0]|[3]|");
  EXPECT_EQ(Render(splitter.Split("zzz", false)), "[3]|z|");
}

// The definition itself: the tokens by length, each cut out of the remaining text from the left.
std::vector<TextFragment> SplitByDefinition(const std::vector<TestToken>& tokens,
                                            std::string_view text) {
  std::vector<TextFragment> fragments;
  if (!text.empty()) fragments.push_back({text});
  for (size_t length = text.size(); length > 0; --length) {
    std::vector<TextFragment> finer;
    for (const TextFragment& fragment : fragments) {
      if (fragment.token >= 0) {
        finer.push_back(fragment);
        continue;
      }
      size_t begin = 0;
      for (size_t i = 0; i + length <= fragment.text.size();) {
        int32_t found = -1;
        for (size_t t = 0; t < tokens.size(); ++t) {
          if (fragment.text.substr(i, length) == tokens[t].first) found = 259 + static_cast<int>(t);
        }
        if (found < 0) {
          ++i;
          continue;
        }
        if (i > begin) finer.push_back({fragment.text.substr(begin, i - begin)});
        finer.push_back({fragment.text.substr(i, length), found});
        begin = i += length;
      }
      if (begin < fragment.text.size()) finer.push_back({fragment.text.substr(begin)});
    }
    fragments = finer;
  }
  return fragments;
}

TEST(SpecialTokenSplitterTest, AgreesWithTheDefinitionOnRandomTexts) {
  const std::vector<TestToken> tokens = {{"aa", 4},   {"ab", 4},    {"aab", 4},
                                         {"aaaa", 4}, {"ba", 4},    {"bbb", 4},
                                         {"abba", 4}, {"babab", 4}, {"ca", 4}};
  const Vocabulary vocabulary = WithTokens(tokens);
  const SpecialTokenSplitter splitter(vocabulary);
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (size_t n = random() % 20; n > 0; --n) text.push_back("aaabbbc"[random() % 7]);
    EXPECT_EQ(Render(splitter.Split(text, false)), Render(SplitByDefinition(tokens, text))) << text;
  }
}

}  // namespace
}  // namespace gguf_offload
