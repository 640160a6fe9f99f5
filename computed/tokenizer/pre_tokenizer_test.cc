// The scanners against PCRE2 running the regular expressions that they stand for.
#include "computed/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace gguf_offload {
namespace {

using Words = std::vector<std::string>;

class Regex {
 public:
  explicit Regex(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset,
                              nullptr));
    EXPECT_NE(code_, nullptr) << pattern << " at " << offset;
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }

  // Matches and the stretches between them.
  void Split(std::string_view text, std::vector<std::string_view>* words) const {
    size_t begin = 0;
    while (begin < text.size() &&
           pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
                       0, match_.get(), nullptr) > 0) {
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_.get());
      if (range[0] > begin) words->push_back(text.substr(begin, range[0] - begin));
      words->push_back(text.substr(range[0], range[1] - range[0]));
      begin = range[1];
    }
    if (begin < text.size()) words->push_back(text.substr(begin));
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

// Applies each expression to the words of the one before.
Words SplitByRegex(const std::vector<Regex>& regexes, const std::string& text) {
  std::vector<std::string_view> words;
  if (!text.empty()) words.push_back(text);
  for (const Regex& regex : regexes) {
    std::vector<std::string_view> finer;
    for (std::string_view word : words) regex.Split(word, &finer);
    words.swap(finer);
  }
  return Words(words.begin(), words.end());
}

const char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char kContractions[] = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
const char kSpaces[] = R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string LlamaLike(const std::string& letters, const std::string& number,
                      const std::string& rest) {
  return std::string(kContractions) + R"(|[^\r\n\p{L}\p{N}]?)" + letters + "|" + number + "|" +
         rest + "|" + kSpaces;
}

// As llama.cpp runs it: letters outside ASCII are both upper and lower case.
std::string CaseSplitting(const std::string& number, const std::string& contraction) {
  const std::string upper = R"((?:(?=\p{L})[^a-z]))";
  const std::string lower = R"((?:(?=\p{L})[^A-Z]))";
  const std::string prefix = R"([^\r\n\p{L}\p{N}]?)";
  return prefix + upper + "*" + lower + "+" + contraction + "|" + prefix + upper + "+" + lower +
         "*" + contraction + "|" + number + R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" + kSpaces;
}

// Ranges of DeepSeek LLM's letters that the characters below can tell apart.
const char kDeepSeekLlmLetters[] =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
    R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}]+)";

struct Case {
  std::string name;
  std::vector<std::string> patterns;
};

std::vector<Case> Cases() {
  const std::string rest = R"( ?[^\s\p{L}\p{N}]+[\r\n]*)";
  const std::string cjk = R"((?:(?!\s)[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}])+)";
  // llama.cpp leaves '~' out of \p{S} where it translates the classes.
  const std::string sign = R"((?:(?!~)[\p{P}\p{S}]))";
  return {
      {"gpt-2", {kGpt2}},
      {"llama-bpe", {LlamaLike(R"(\p{L}+)", R"(\p{N}{1,3})", rest)}},
      {"glm4", {LlamaLike(R"(\p{L}+)", R"(\p{N}{1,3})", rest)}},
      {"qwen2", {LlamaLike(R"(\p{L}+)", R"(\p{N})", rest)}},
      {"qwen35", {LlamaLike(R"([\p{L}\p{M}]+)", R"(\p{N})", R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)")}},
      {"seed-coder", {LlamaLike(R"(\p{L}+)", R"(\p{N})", R"( ?[^\s\p{L}\p{N}\r\n]+)")}},
      {"gpt-4o", {CaseSplitting(R"(\p{N}{1,3})", std::string(kContractions) + "?")}},
      {"minimax-m2", {CaseSplitting(R"(\p{N}{1,3})", std::string(kContractions) + "?")}},
      {"tekken", {CaseSplitting(R"(\p{N})", "")}},
      {"deepseek-v3",
       {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
        R"((?:~|[^\r\n\p{L}\p{P}\p{S}])?[\p{L}\p{M}]+| ?)" +
            sign + R"(+[\r\n]*|)" + kSpaces}},
      {"deepseek-coder", {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", cjk, R"(\p{N})"}},
      {"deepseek-llm",
       {R"([\r\n])", kDeepSeekLlmLetters,
        R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}-\x{3002}]+)",
        R"(\s+$)", cjk, R"(\p{N}+)"}},
      {"starcoder", {R"(\p{N})", kGpt2}},
      {"falcon", {R"([\p{P}$+<=>^~|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
      {"default", {R"([\p{P}$+<=>^~|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"kimi-k2",
       {R"([\x{4E00}-\x{9FFF}]+|[^\r\n\p{L}\p{N}]?(?:(?![\x{4E00}-\x{9FFF}])\p{L})+)" +
        std::string(kContractions) + R"(?|\p{N}{1,3}|)" + rest + "|" + kSpaces}},
  };
}

// Characters between which one of the expressions makes a difference.
const std::vector<std::string>& Alphabet() {
  static const std::vector<std::string>& alphabet = *new std::vector<std::string>{
      "a",  "s",  "t",      "d",      "m",          "re",     "ve",     "ll",     "LL",     "S",
      "Re", "A",  "Z",      "z",      "0",          "7",      "123",    " ",      " ",      " ",
      "  ", "\n", "\r",     "\r\n",   "\t",         "\v",     "\x1C",   "\x7F",   "'",      "'",
      "'",  "\"", "!",      "#",      "$",          "+",      "-",      "/",      "/",      "<",
      ">",  "=",  "^",      "_",      "`",          "{",      "|",      "}",      "~",      "~",
      "[",  "]",  "\\",     ".",      ",",          "é",      "ß",      "µ",      "ª",      "ǅ",
      "ƻ",  "Ж",  "д",      "Ω",      "א",          "न",      "ि",      "́",       "̈",       "中",
      "文", "龥", "龦",     "か",     "カ",         "ー",     "・",     "한",     "①",      "½",
      "²",  "Ⅷ",  "٣",      "€",      "…",          "’",      "—",      "、",     "。",     "！",
      "～", "Ａ", "　",     " ",      "\u0085",     "\u2028", "\u200B", "\u200D", "\u2003", "🙂",
      "🚀",  "𐐀",  "\u0378", "\uE000", "\U000E0001", "\uFFFD"};
  return alphabet;
}

TEST(PreTokenizerTest, AgreesWithItsRegularExpressions) {
  std::mt19937 random(42);
  std::vector<std::string> texts = {""};
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (size_t n = 1 + random() % 24; n > 0; --n) {
      text += Alphabet()[random() % Alphabet().size()];
    }
    texts.push_back(text);
  }
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    const absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(c.name);
    ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
    std::vector<Regex> regexes;
    for (const std::string& pattern : c.patterns) regexes.emplace_back(pattern);
    for (const std::string& text : texts) {
      const std::vector<std::string_view> words = pre_tokenizer->Split(text);
      ASSERT_EQ(Words(words.begin(), words.end()), SplitByRegex(regexes, text)) << text;
    }
  }
}

TEST(PreTokenizerTest, WordsCoverTheTextWhateverItsBytes) {
  std::mt19937 random(43);
  for (const Case& c : Cases()) {
    const PreTokenizer pre_tokenizer = *PreTokenizer::Create(c.name);
    for (int i = 0; i < 500; ++i) {
      std::string text;
      for (size_t n = random() % 40; n > 0; --n) text.push_back(static_cast<char>(random()));
      std::string joined;
      for (std::string_view word : pre_tokenizer.Split(text)) {
        EXPECT_FALSE(word.empty());
        joined += word;
      }
      EXPECT_EQ(joined, text) << c.name;
    }
  }
}

}  // namespace
}  // namespace gguf_offload
