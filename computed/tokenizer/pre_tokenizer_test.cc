// The scanners against PCRE2 running the regular expressions that they stand for.
#include "computed/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "computed/tokenizer/testing/published_expressions.h"
#include "computed/tokenizer/testing/regex_split.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

using Words = std::vector<std::string>;

Words Strings(const std::vector<std::string_view>& words) {
  return Words(words.begin(), words.end());
}

std::vector<Regex> Compile(const std::vector<std::string>& patterns) {
  std::vector<Regex> regexes;
  for (const std::string& pattern : patterns) regexes.emplace_back(pattern);
  return regexes;
}

struct Category {
  std::string name;
  std::vector<char32_t> members;
};

// What PCRE2 says of each code point, in its version of Unicode.
struct UnicodeOracle {
  std::vector<Category> categories;
  std::set<char32_t> white_space;
  std::vector<bool> han = std::vector<bool>(0x110000);

  UnicodeOracle() {
    std::string all;
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c < 0xD800 || c > 0xDFFF) all += ToUtf8(c);
    }
    for (const char* name :
         {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
          "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"}) {
      categories.push_back({name, Members(all, std::string("\\p{") + name + "}+")});
    }
    for (char32_t c : Members(all, "\\s+")) white_space.insert(c);
    for (char32_t c : Members(all, "\\p{sc:Han}+")) han[c] = true;
  }

  static std::vector<char32_t> Members(const std::string& all, const std::string& pattern) {
    std::vector<char32_t> members;
    for (std::string_view run : Regex(pattern).FindAll(all)) {
      const DecodedText decoded(run);
      members.insert(members.end(), decoded.code_points.begin(), decoded.code_points.end());
    }
    return members;
  }

  CharClass ExpectedClass(const std::string& category, char32_t c) const {
    if (white_space.contains(c)) return CharClass::kSpace;
    if (category == "Lu") return CharClass::kUpper;
    if (category == "Ll") return CharClass::kLower;
    if (category == "Lt") return CharClass::kTitle;
    if (category == "Lm") return CharClass::kModifier;
    if (category == "Lo") return CharClass::kOtherLetter;
    if (category == "Nd") return CharClass::kDecimal;
    if (category == "Pc") return CharClass::kConnector;
    switch (category[0]) {
      case 'M':
        return CharClass::kMark;
      case 'N':
        return CharClass::kOtherNumber;
      case 'P':
        return CharClass::kPunctuation;
      case 'S':
        return CharClass::kSymbol;
      default:
        return CharClass::kOther;
    }
  }

  bool Agrees(const std::string& category, char32_t c) const {
    return ClassOf(c) == ExpectedClass(category, c) && IsHan(c) == han[c];
  }
};

const UnicodeOracle& Oracle() {
  static const UnicodeOracle& oracle = *new UnicodeOracle();
  return oracle;
}

// Texts of characters of all general categories and of what the expressions distinguish.
std::vector<std::string> RandomTexts(size_t count) {
  std::mt19937 random(42);
  std::vector<std::string> texts = {""};
  while (texts.size() < count) {
    std::string text;
    const bool all_of_unicode = random() % 2 == 0;
    for (size_t n = 1 + random() % 24; n > 0; --n) {
      if (all_of_unicode && random() % 2 == 0) {
        const Category& category = Oracle().categories[random() % Oracle().categories.size()];
        const char32_t c = category.members[random() % category.members.size()];
        if (Oracle().Agrees(category.name, c)) text += ToUtf8(c);
      } else {
        text += DistinguishingTexts()[random() % DistinguishingTexts().size()];
      }
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(PreTokenizerTest, EveryNameHasItsPublishedExpressions) {
  std::vector<std::string_view> published;
  for (const PublishedExpressions& expressions : AllPublishedExpressions()) {
    published.insert(published.end(), expressions.names.begin(), expressions.names.end());
  }
  std::vector<std::string_view> known = PreTokenizer::Names();
  std::sort(published.begin(), published.end());
  std::sort(known.begin(), known.end());
  EXPECT_EQ(published, known);
  EXPECT_EQ(std::adjacent_find(known.begin(), known.end()), known.end());
}

// Our tables are of Unicode 15.1. Where PCRE2's are older, they differ in what it does not know.
TEST(PreTokenizerTest, ClassesAreThoseOfUnicode) {
  size_t known = 0;
  size_t unknown = 0;
  for (const Category& category : Oracle().categories) {
    for (char32_t c : category.members) {
      ++known;
      if (Oracle().Agrees(category.name, c)) continue;
      EXPECT_EQ(category.name, "Cn") << std::hex << static_cast<uint32_t>(c);
      ++unknown;
    }
  }
  EXPECT_EQ(known, 0x110000u - 0x800);
  EXPECT_LT(unknown, 10000u);
}

TEST(PreTokenizerTest, AgreesWithItsRegularExpressions) {
  const std::vector<std::string> texts = RandomTexts(6000);
  for (const PublishedExpressions& expressions : AllPublishedExpressions()) {
    const std::vector<Regex> regexes = Compile(expressions.patterns);
    std::vector<Words> expected;
    for (const std::string& text : texts) {
      expected.push_back(Strings(SplitByRegexes(regexes, text)));
    }
    for (std::string_view name : expressions.names) {
      SCOPED_TRACE(name);
      const absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(name);
      ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
      // One of the names with all texts, the others with enough to tell expressions apart.
      const size_t count = name == expressions.names[0] ? texts.size() : 500;
      for (size_t i = 0; i < count; ++i) {
        ASSERT_EQ(Strings(pre_tokenizer->Split(texts[i])), expected[i]) << texts[i];
      }
    }
  }
}

// Many characters of each category, each where an expression may treat it differently.
TEST(PreTokenizerTest, AgreesOnCharactersOfEveryCategory) {
  std::vector<std::string> texts;
  for (const Category& category : Oracle().categories) {
    const size_t stride = std::max<size_t>(1, category.members.size() / 300);
    for (size_t i = 0; i < category.members.size(); i += stride) {
      if (!Oracle().Agrees(category.name, category.members[i])) continue;
      const std::string c = ToUtf8(category.members[i]);
      texts.push_back("a" + c + "B " + c + "1" + c + " " + c + "\n" + c + c + "!" + c + "'s");
    }
  }
  for (const PublishedExpressions& expressions : AllPublishedExpressions()) {
    SCOPED_TRACE(expressions.names[0]);
    const std::vector<Regex> regexes = Compile(expressions.patterns);
    const PreTokenizer pre_tokenizer = *PreTokenizer::Create(expressions.names[0]);
    for (const std::string& text : texts) {
      ASSERT_EQ(Strings(pre_tokenizer.Split(text)), Strings(SplitByRegexes(regexes, text))) << text;
    }
  }
}

TEST(PreTokenizerTest, MarksAndCaseInTheO200kFamily) {
  for (const char* name : {"gpt-4o", "minimax-m2", "llama4", "kanana2", "tekken", "kimi-k2"}) {
    SCOPED_TRACE(name);
    const PreTokenizer pre_tokenizer = *PreTokenizer::Create(name);
    auto split = [&](const std::string& text) { return Strings(pre_tokenizer.Split(text)); };
    EXPECT_EQ(split("e\u0301"), Words({"e\u0301"}));
    EXPECT_EQ(split("नमस्ते दुनिया"), Words({"नमस्ते", " दुनिया"}));
    EXPECT_EQ(split("ที่นี่"), Words({"ที่นี่"}));
    EXPECT_EQ(split("ПриветМир"), Words({"Привет", "Мир"}));
    EXPECT_EQ(split("ÉcoleÉté HTTPServer"), Words({"École", "Été", " HTTPServer"}));
  }
}

// Time that is not linear in the text would be seconds for each of these.
TEST(PreTokenizerTest, LongTextsOfOneKind) {
  for (const PublishedExpressions& expressions : AllPublishedExpressions()) {
    SCOPED_TRACE(expressions.names[0]);
    const PreTokenizer pre_tokenizer = *PreTokenizer::Create(expressions.names[0]);
    for (const char* unit : {" ", "\n", "1", "a", "A", "aA", "\u0301", "\u02B0", "'", "!", "a ",
                             " \n", "\u4E2D", "<sentinel:1", "IMGIMGA"}) {
      std::string text;
      while (text.size() < 1 << 16) text += unit;
      text += "~x";
      size_t size = 0;
      for (std::string_view word : pre_tokenizer.Split(text)) size += word.size();
      EXPECT_EQ(size, text.size());
    }
  }
}

TEST(PreTokenizerTest, Settings) {
  const std::set<std::string_view> ignore_merges = {"llama-bpe",
                                                    "llama3",
                                                    "llama-v3",
                                                    "falcon3",
                                                    "falcon-h1",
                                                    "pixtral",
                                                    "midm-2.0",
                                                    "lfm2",
                                                    "jina-v5-nano",
                                                    "tekken",
                                                    "minicpm5",
                                                    "youtu",
                                                    "granite-embed-multi-97m"};
  const std::set<std::string_view> bos = {"llama-bpe", "llama3",    "llama-v3",    "falcon3",
                                          "falcon-h1", "pixtral",   "midm-2.0",    "lfm2",
                                          "tekken",    "chameleon", "jina-v5-nano"};
  const std::set<std::string_view> gemma = {"gemma4", "granite-embed-multi-311m"};
  for (std::string_view name : PreTokenizer::Names()) {
    SCOPED_TRACE(name);
    const PreTokenizerSettings settings = PreTokenizer::Create(name)->settings();
    EXPECT_EQ(settings.ignore_merges, ignore_merges.contains(name));
    EXPECT_EQ(settings.add_bos, gemma.contains(name) ? PreTokenizerSettings::kAlways
                                : bos.contains(name) ? PreTokenizerSettings::kByDefault
                                                     : PreTokenizerSettings::kNotByDefault);
    EXPECT_EQ(settings.escape_spaces, gemma.contains(name) || name == "sarvam-moe");
    EXPECT_EQ(settings.plain_tokens, settings.escape_spaces || name == "whitespace");
    EXPECT_EQ(settings.whole_line_breaks, gemma.contains(name));
  }
}

TEST(PreTokenizerTest, WordsCoverTheTextWhateverItsBytes) {
  std::mt19937 random(43);
  for (std::string_view name : PreTokenizer::Names()) {
    const PreTokenizer pre_tokenizer = *PreTokenizer::Create(name);
    for (int i = 0; i < 100; ++i) {
      std::string text;
      for (size_t n = random() % 40; n > 0; --n) text.push_back(static_cast<char>(random()));
      std::string joined;
      for (std::string_view word : pre_tokenizer.Split(text)) {
        EXPECT_FALSE(word.empty());
        joined += word;
      }
      EXPECT_EQ(joined, text) << name;
    }
  }
}

}  // namespace
}  // namespace gguf_offload
