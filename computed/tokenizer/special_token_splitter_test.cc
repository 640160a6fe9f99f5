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

TEST(SpecialTokenSplitterTest, NoTokenHasAByteInALiteralRange) {
  const Vocabulary vocabulary = WithTokens({{"<c>", 3}, {"<u>", 4}, {"<k>", 2}});
  const SpecialTokenSplitter splitter(vocabulary);
  auto split = [&](std::string_view text, std::vector<TextRange> literal) {
    return Render(splitter.Split(text, true, literal));
  };
  EXPECT_EQ(split("<c><c><c>", {{3, 6}}), "[0]|<c>|[0]|");
  EXPECT_EQ(split("<c><c><c>", {{4, 5}}), "[0]|<c>|[0]|");
  EXPECT_EQ(split("<c><u><k>", {{0, 9}}), "<c><u><k>|");
  EXPECT_EQ(split("<c><u><k>", {{2, 4}, {6, 7}}), "<c><u><k>|");
  // Half of a token before the range, half of it inside, on either side.
  EXPECT_EQ(split("a<c>b", {{0, 2}}), "a<c>b|");
  EXPECT_EQ(split("a<c>b", {{3, 5}}), "a<c>b|");
  EXPECT_EQ(split("a<c>b", {{0, 1}, {4, 5}}), "a|[0]|b|");
  // Ranges that say nothing.
  EXPECT_EQ(split("<c>", {{1, 1}, {3, 9}, {2, 1}}), "[0]|");
  EXPECT_EQ(split("<c><c>", {{7, 3}, {3, 100}, {4, 5}}), "[0]|<c>|");
}

TEST(SpecialTokenSplitterTest, SaysWhichTextHoldsLiteralBytes) {
  const Vocabulary vocabulary = WithTokens({{"<c>", 3}});
  const SpecialTokenSplitter splitter(vocabulary);
  const std::vector<TextRange> literal = {{4, 5}, {5, 6}, {13, 14}};
  std::vector<bool> flags;
  for (const TextFragment& f : splitter.Split("<c>abc<c>d<c>e", true, literal)) {
    if (f.token < 0) flags.push_back(f.literal);
  }
  EXPECT_EQ(flags, std::vector<bool>({true, false, true}));
}

// A token of white space is found in users' text and over its borders, as in any other text.
TEST(SpecialTokenSplitterTest, WhiteSpaceIsNoMarkup) {
  const Vocabulary vocabulary =
      WithTokens({{"  ", 4}, {"    ", 4}, {"\n\n", 4}, {"\t", 3}, {" x", 4}});
  const SpecialTokenSplitter splitter(vocabulary);
  auto split = [&](std::string_view text, std::vector<TextRange> literal) {
    return Render(splitter.Split(text, true, literal));
  };
  EXPECT_EQ(split("a    b\n\nc", {{0, 9}}), "a|[1]|b|[2]|c|");
  EXPECT_EQ(split("a    b", {{3, 6}}), "a|[1]|b|");
  EXPECT_EQ(split("\n\nb", {{1, 3}}), "[2]|b|");
  // But a control token is one, and so is what holds more than white space.
  EXPECT_EQ(split("\t\t", {{1, 2}}), "[3]|\t|");
  EXPECT_EQ(split("   x", {{0, 4}}), "[0]| x|");
  EXPECT_EQ(split("   x", {}), "[0]|[4]|");
}

TEST(SpecialTokenSplitterTest, LiteralRangesAgreeWithTheDefinitionOnRandomTexts) {
  const std::vector<TestToken> tokens = {
      {"aa", 4}, {"aab", 4}, {"aaaa", 3}, {"ba", 2}, {"abba", 4}};
  const Vocabulary vocabulary = WithTokens(tokens);
  const SpecialTokenSplitter splitter(vocabulary);
  std::mt19937 random(8);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (size_t n = random() % 20; n > 0; --n) text.push_back("aaabbbc"[random() % 7]);
    const size_t a = random() % (text.size() + 1);
    const size_t b = a + random() % (text.size() + 1 - a);
    // Before and after the range as if these were texts of their own; what is next to the range
    // and no token is one piece with it.
    std::string expected;
    auto append = [&](const std::vector<TextFragment>& fragments) {
      for (const TextFragment& fragment : fragments) {
        if (fragment.token < 0) {
          expected += fragment.text;
        } else {
          expected += "|[" + std::to_string(fragment.token - 259) + "]|";
        }
      }
    };
    const std::string_view view = text;
    append(SplitByDefinition(tokens, view.substr(0, a)));
    expected += view.substr(a, b - a);
    append(SplitByDefinition(tokens, view.substr(b)));
    if (a == b) {
      expected.clear();
      append(SplitByDefinition(tokens, view));
    }
    std::string actual;
    const TextRange literal[] = {{a, b}};
    for (const TextFragment& fragment : splitter.Split(text, true, literal)) {
      actual += fragment.token < 0 ? std::string(fragment.text)
                                   : "|[" + std::to_string(fragment.token - 259) + "]|";
    }
    EXPECT_EQ(actual, expected) << text << " " << a << " " << b;
  }
}

}  // namespace
}  // namespace gguf_offload
