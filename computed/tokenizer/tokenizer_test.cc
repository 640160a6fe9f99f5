#include "computed/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"

namespace gguf_offload {
namespace {

using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> CreateOrDie(const v1::Manifest& manifest) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(manifest);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581
std::string Marked(const std::string& text) { return kMark + text; }

// Ids: 259 "▁", 260 "▁a", 261 "ab", 262 "b", 263 "a", 264 "▁ab".
v1::Manifest SmallSentencePiece() {
  return SentencePieceManifest(
      {{kMark, 1}, {Marked("a"), 1}, {"ab", 1}, {"b", 1}, {"a", 1}, {Marked("ab"), 1}});
}

TEST(SentencePieceTest, HighestScoreMergesFirst) {
  const auto tokenizer = CreateOrDie(SmallSentencePiece());
  // ▁ a b: "▁a" (-1) beats "ab" (-2), then "▁ab" is formed.
  EXPECT_EQ(tokenizer->Encode("ab", {}), Ids({264}));
  // The second "ab" has no space before it.
  EXPECT_EQ(tokenizer->Encode("abab", {}), Ids({264, 261}));
}

TEST(SentencePieceTest, EqualScoresMergeLeftmostFirst) {
  v1::Manifest manifest = SentencePieceManifest({{kMark, 1}, {"a", 1}, {"aa", 1}});
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("aaa", {}), Ids({261, 260}));
}

TEST(SentencePieceTest, UnknownCharactersBecomeBytes) {
  const auto tokenizer = CreateOrDie(SmallSentencePiece());
  EXPECT_EQ(tokenizer->Encode("\xC3\xA9", {}), Ids({259, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer->Encode("\n", {}), Ids({259, 3 + 0x0A}));
}

TEST(SentencePieceTest, WithoutByteTokensACharacterIsUnknown) {
  v1::Manifest manifest;
  SetString(&manifest, "tokenizer.ggml.model", "llama");
  SetStrings(&manifest, "tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
  SetFloats(&manifest, "tokenizer.ggml.scores", {0, 0, 0, -1});
  SetInts(&manifest, "tokenizer.ggml.token_type", {2, 3, 3, 1});
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("a\xE4\xB8\xAD"
                                          "a",
                                          {}),
            Ids({3, 0, 3}));
}

TEST(SentencePieceTest, SpacePrefixFollowsSpecialTokensToo) {
  const auto tokenizer = CreateOrDie(SmallSentencePiece());
  EXPECT_TRUE(tokenizer->adds_space_prefix());
  const EncodeOptions parse{.parse_special = true};
  EXPECT_EQ(tokenizer->Encode("ab</s>ab", parse), Ids({264, 2, 264}));
  v1::Manifest manifest = SmallSentencePiece();
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab</s>ab", parse), Ids({261, 2, 261}));
}

TEST(SentencePieceTest, RemovesExtraSpacesOnlyIfAsked) {
  EXPECT_EQ(CreateOrDie(SmallSentencePiece())->Encode("  a  b ", {}),
            Ids({259, 259, 260, 259, 259, 262, 259}));
  v1::Manifest manifest = SmallSentencePiece();
  SetBool(&manifest, "tokenizer.ggml.remove_extra_whitespaces", true);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("  a  b ", {}), Ids({260, 259, 262}));
}

TEST(SentencePieceTest, BosByDefaultAndEosOnDemand) {
  const EncodeOptions special{.add_bos = true, .add_eos = true};
  const auto tokenizer = CreateOrDie(SmallSentencePiece());
  EXPECT_EQ(tokenizer->Encode("", special), Ids({1}));
  EXPECT_EQ(tokenizer->Encode("", {}), Ids());
  EXPECT_EQ(tokenizer->Encode("ab", special), Ids({1, 264}));
  v1::Manifest manifest = SmallSentencePiece();
  SetBool(&manifest, "tokenizer.ggml.add_bos_token", false);
  SetBool(&manifest, "tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab", special), Ids({264, 2}));
}

TEST(SentencePieceTest, OrdinaryTextNeverBecomesASpecialToken) {
  // All that merging "</s>" would need is there, and its score is the best of all.
  const auto tokenizer = CreateOrDie(SentencePieceManifest(
      {{kMark, 1}, {"</", 1}, {"s>", 1}, {"<", 1}, {"/", 1}, {"s", 1}, {">", 1}}));
  EXPECT_EQ(tokenizer->Encode("</s>", {.parse_special = true}), Ids({2}));
  const Ids ids = tokenizer->Encode("</s>", {});
  EXPECT_EQ(ids, Ids({259, 260, 261}));
  EXPECT_EQ(tokenizer->Decode(ids), "</s>");
}

TEST(SentencePieceTest, DecodeTakesThePrefixSpaceBack) {
  const auto tokenizer = CreateOrDie(SmallSentencePiece());
  EXPECT_EQ(tokenizer->TokenBytes(264), " ab");
  EXPECT_EQ(tokenizer->Decode(Ids({264, 264})), "ab ab");
  EXPECT_EQ(tokenizer->Decode(Ids({1, 264})), "ab");
  EXPECT_EQ(tokenizer->Decode(Ids({1, 264}), /*render_special=*/true), "<s>ab");
  EXPECT_EQ(tokenizer->Decode(Ids({263, 264})), "a ab");
  EXPECT_EQ(tokenizer->Decode(Ids({3 + 0xC3, 3 + 0xA9})), "\xC3\xA9");
}

TEST(TokenizerTest, HiddenTokensAndIdsOutOfRangeAddNothing) {
  const auto tokenizer = CreateOrDie(SentencePieceManifest({{"pad", 5}, {"x", 0}, {"user", 4}}));
  EXPECT_EQ(tokenizer->vocab_size(), 262);
  EXPECT_EQ(tokenizer->TokenBytes(0), "");
  EXPECT_EQ(tokenizer->TokenBytes(1), "");
  EXPECT_EQ(tokenizer->TokenBytes(1, /*render_special=*/true), "<s>");
  EXPECT_EQ(tokenizer->TokenBytes(259), "");
  EXPECT_EQ(tokenizer->TokenBytes(260), "");
  EXPECT_EQ(tokenizer->TokenBytes(261), "user");
  for (int32_t id : {-1, 262, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->TokenBytes(id, true), "");
    EXPECT_FALSE(tokenizer->IsEndOfGeneration(id));
  }
  EXPECT_EQ(tokenizer->Decode(Ids({-1, 262, 261})), "user");
}

// Ids: 256 "ab", 257 "abc", 258 "bc", 259 "<|im_end|>", 260 "<|user|>", 261 "abcd" unreachable.
v1::Manifest SmallBpe(const std::string& pre) {
  return BpeManifest(
      pre, {{"ab", 1}, {"abc", 1}, {"bc", 1}, {"<|im_end|>", 3}, {"<|user|>", 4}, {"abcd", 1}},
      {"b c", "a b", "a bc"});
}

TEST(ByteLevelBpeTest, LowestRankMergesFirst) {
  const auto tokenizer = CreateOrDie(SmallBpe("qwen2"));
  EXPECT_EQ(tokenizer->Encode("abc", {}), Ids({257}));
  EXPECT_EQ(tokenizer->Encode("ab", {}), Ids({256}));
  EXPECT_EQ(tokenizer->Encode("abcd", {}), Ids({257, 'd'}));
  EXPECT_EQ(tokenizer->Encode(" abc", {}), Ids({' ', 257}));
}

TEST(ByteLevelBpeTest, LlamaBpeTakesWholeWordsWithoutMerging) {
  const auto tokenizer = CreateOrDie(SmallBpe("llama-bpe"));
  EXPECT_EQ(tokenizer->Encode("abcd", {}), Ids({261}));
}

TEST(ByteLevelBpeTest, ShortAndLongWordsMergeAlike) {
  const auto tokenizer = CreateOrDie(SmallBpe("qwen2"));
  for (size_t repeats = 1; repeats < 60; ++repeats) {
    std::string word;
    Ids expected;
    for (size_t i = 0; i < repeats; ++i) {
      word += "abca";
      expected.insert(expected.end(), {257, 'a'});
    }
    EXPECT_EQ(tokenizer->Encode(word, {}), expected) << repeats;
  }
}

TEST(ByteLevelBpeTest, AMergeThatIsNoTokenIsSpelledByItsBytes) {
  const auto tokenizer = CreateOrDie(BpeManifest("qwen2", {}, {"a b"}));
  EXPECT_EQ(tokenizer->Encode("ab", {}), Ids({'a', 'b'}));
}

TEST(ByteLevelBpeTest, OfRepeatedMergesTheFirstCounts) {
  const auto tokenizer =
      CreateOrDie(BpeManifest("qwen2", {{"ab", 1}, {"bc", 1}}, {"a b", "b c", "a b"}));
  EXPECT_EQ(tokenizer->Encode("abc", {}), Ids({256, 'c'}));
}

TEST(ByteLevelBpeTest, BosOnlyWhereThePreTokenizerOrTheFileSaysSo) {
  const EncodeOptions special{.add_bos = true, .add_eos = true};
  v1::Manifest manifest = SmallBpe("qwen2");
  SetUnsigned(&manifest, "tokenizer.ggml.bos_token_id", 259);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab", special), Ids({256}));
  SetString(&manifest, "tokenizer.ggml.pre", "llama-bpe");
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab", special), Ids({259, 256}));
  SetBool(&manifest, "tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab", special), Ids({256}));
  SetString(&manifest, "tokenizer.ggml.pre", "qwen2");
  SetBool(&manifest, "tokenizer.ggml.add_bos_token", true);
  EXPECT_EQ(CreateOrDie(manifest)->Encode("ab", special), Ids({259, 256}));
  // No BOS id: llama-bpe's default cannot be followed.
  EXPECT_EQ(CreateOrDie(SmallBpe("llama-bpe"))->Encode("ab", special), Ids({256}));
}

TEST(ByteLevelBpeTest, ControlTokensAreParsedOnlyOnDemand) {
  const auto tokenizer = CreateOrDie(SmallBpe("qwen2"));
  EXPECT_EQ(tokenizer->Encode("ab<|im_end|>ab", {.parse_special = true}), Ids({256, 259, 256}));
  const Ids plain = tokenizer->Encode("ab<|im_end|>ab", {});
  EXPECT_EQ(plain.size(), 12u);
  for (int32_t id : plain) EXPECT_NE(id, 259);
  for (bool parse : {false, true}) {
    EXPECT_EQ(tokenizer->Encode("<|user|>ab", {.parse_special = parse}), Ids({260, 256}));
  }
}

TEST(ByteLevelBpeTest, MergesCannotFormAControlToken) {
  const auto tokenizer = CreateOrDie(BpeManifest("qwen2", {{"xy", 3}, {"zw", 3}}, {"x y", "z w"}));
  EXPECT_EQ(tokenizer->Encode("xy", {}), Ids({'x', 'y'}));
  const auto whole = CreateOrDie(BpeManifest("llama-bpe", {{"xy", 3}}, {}));
  EXPECT_EQ(whole->Encode("xy", {}), Ids({'x', 'y'}));
}

// Byte pair encoding on plain tokens: 0 "<pad>", 1 "<eos>", 2 "<bos>", 3 "<unk>", 4 to 259 the
// bytes, then the texts below.
v1::Manifest PlainTokens(const std::string& model, const std::string& pre) {
  v1::Manifest manifest;
  std::vector<std::string> texts = {"<pad>", "<eos>", "<bos>", "<unk>"};
  std::vector<int64_t> types = {3, 3, 3, 2};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    texts.push_back(text);
    types.push_back(6);
  }
  for (const std::string& text :
       {std::string(kMark), std::string("a"), std::string("b"), std::string("ab"), Marked("ab"),
        std::string("\n"), std::string("\n\n"), std::string("\u00E9"), Marked(kMark)}) {
    texts.push_back(text);
    types.push_back(1);
  }
  SetString(&manifest, "tokenizer.ggml.model", model);
  if (!pre.empty()) SetString(&manifest, "tokenizer.ggml.pre", pre);
  SetStrings(&manifest, "tokenizer.ggml.tokens", texts);
  SetInts(&manifest, "tokenizer.ggml.token_type", types);
  SetStrings(&manifest, "tokenizer.ggml.merges",
             {"a b", Marked(" ab"), Marked(" ") + kMark, "< 0x41>"});
  SetUnsigned(&manifest, "tokenizer.ggml.bos_token_id", 2);
  SetUnsigned(&manifest, "tokenizer.ggml.eos_token_id", 1);
  return manifest;
}

TEST(PlainTokensTest, CharactersMergeAndTheRestIsBytes) {
  for (const auto& [model, pre] : std::vector<std::pair<std::string, std::string>>{
           {"gemma4", ""},
           {"gemma4", "llama-bpe"},  // the model decides
           {"gpt2", "gemma4"},
           {"gpt2", "granite-embed-multi-311m"},
           {"gpt2", "sarvam-moe"}}) {
    SCOPED_TRACE(model + " " + pre);
    const auto tokenizer = CreateOrDie(PlainTokens(model, pre));
    EXPECT_EQ(tokenizer->Encode("ab ab", {}), Ids({263, 264}));
    EXPECT_EQ(tokenizer->Encode("  ab   a", {}), Ids({260, 264, 268, 260, 261}));
    EXPECT_EQ(tokenizer->Encode("\u00E9\u00F1", {}), Ids({267, 4 + 0xC3, 4 + 0xB1}));
    EXPECT_EQ(tokenizer->Encode("\xFF\xC3", {}), Ids({4 + 0xFF, 4 + 0xC3}));
    EXPECT_EQ(tokenizer->Encode("a\nb", {}), Ids({261, 265, 262}));
    EXPECT_EQ(tokenizer->Encode("\n\n\n", {}), Ids({265, 265, 265}));
    // A byte token's name is text.
    EXPECT_EQ(tokenizer->Encode("<0x41>", {}).size(), 6u);
    EXPECT_EQ(tokenizer->Decode(Ids({264, 4 + 0xC3, 4 + 0xB1, 268})), " ab\u00F1  ");
    const bool whole_line_breaks = pre != "sarvam-moe";
    EXPECT_EQ(tokenizer->Encode("a\n\nb", {}),
              whole_line_breaks ? Ids({261, 266, 262}) : Ids({261, 265, 265, 262}));
  }
}

TEST(PlainTokensTest, GemmaAlwaysBeginsWithBos) {
  v1::Manifest manifest = PlainTokens("gemma4", "");
  for (const bool add_bos : {false, true}) {
    SetBool(&manifest, "tokenizer.ggml.add_bos_token", add_bos);
    EXPECT_EQ(CreateOrDie(manifest)->Encode("a", {.add_bos = true}), Ids({2, 261}));
  }
  manifest.mutable_metadata()->erase("tokenizer.ggml.bos_token_id");
  EXPECT_EQ(CreateOrDie(manifest)->Encode("a", {.add_bos = true}), Ids({261}));
  manifest = PlainTokens("gpt2", "sarvam-moe");
  EXPECT_EQ(CreateOrDie(manifest)->Encode("a", {.add_bos = true}), Ids({261}));
}

TEST(PlainTokensTest, WithoutSpaceMarksASpaceIsAByte) {
  const auto tokenizer = CreateOrDie(PlainTokens("gpt2", "whitespace"));
  EXPECT_EQ(tokenizer->Encode("ab ab", {}), Ids({263, 4 + ' ', 263}));
  EXPECT_EQ(tokenizer->Decode(Ids({264})), Marked("ab"));
}

TEST(PlainTokensTest, LongAndShortLinesMergeAlike) {
  const auto tokenizer = CreateOrDie(PlainTokens("gemma4", ""));
  std::string line;
  Ids expected;
  for (int i = 0; i < 5000; ++i) {
    line += " ab\u00F1";
    expected.insert(expected.end(), {264, 4 + 0xC3, 4 + 0xB1});
  }
  EXPECT_EQ(tokenizer->Encode(line, {}), expected);
  EXPECT_EQ(tokenizer->Decode(expected), line);
}

TEST(TokenizerTest, EosOnlyOnDemand) {
  v1::Manifest manifest = SmallSentencePiece();
  SetBool(&manifest, "tokenizer.ggml.add_eos_token", true);
  const auto tokenizer = CreateOrDie(manifest);
  EXPECT_TRUE(tokenizer->adds_eos());
  EXPECT_EQ(tokenizer->Encode("ab", {.add_bos = true}), Ids({1, 264}));
  EXPECT_EQ(tokenizer->Encode("ab", {.add_eos = true}), Ids({264, 2}));
}

TEST(TokenizerTest, SpecialTokensByName) {
  const auto tokenizer =
      CreateOrDie(SentencePieceManifest({{"<|c|>", 3}, {"<|u|>", 4}, {"word", 1}, {"x", 5}}));
  EXPECT_EQ(tokenizer->SpecialToken("<|c|>"), 259);
  EXPECT_EQ(tokenizer->SpecialToken("<|u|>"), 260);
  EXPECT_EQ(tokenizer->SpecialToken("<unk>"), 0);
  for (const char* name : {"word", "x", "<0x41>", "", "<|c|", "<|c|> "}) {
    EXPECT_EQ(tokenizer->SpecialToken(name), std::nullopt) << name;
  }
}

// A vocabulary and the same one with its markup under names that no text holds: in it, literal text
// is just text.
struct LiteralCase {
  v1::Manifest manifest;
  v1::Manifest without_markup;
};

std::vector<LiteralCase> LiteralCases() {
  const std::vector<std::string> markup = {"<c>", "<u>", "ab", "ba",
                                           "aab", "<",   " a", "\xE2\x96\x81\x61"};
  std::vector<LiteralCase> cases;
  auto tokens = [&](bool hidden) {
    std::vector<TestToken> result = {{"  ", 4},  {"\n\n", 4}, {kMark, 1},
                                     {"a", 1},   {"b", 1},    {"aa", 1},
                                     {"abb", 1}, {"aabb", 1}, {Marked("aa"), 1}};
    for (size_t i = 0; i < markup.size(); ++i) {
      const std::string name = hidden ? "\x01" + std::to_string(i) + "\x02" : markup[i];
      result.emplace_back(name, i == 0 ? 3 : 4);
    }
    return result;
  };
  cases.push_back({SentencePieceManifest(tokens(false)), SentencePieceManifest(tokens(true))});
  const std::vector<std::string> merges = {"a b",  "b a",  "a a",   "aa b",
                                           "a ab", "ab b", "aab b", "< c"};
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2"}) {
    auto byte_level = [&](bool hidden) {
      std::vector<TestToken> result = {{"  ", 4}, {"\n\n", 4}, {"aa", 1}, {"abb", 1}, {"aabb", 1}};
      for (size_t i = 0; i < 5; ++i) {
        const std::string name = hidden ? "\x01" + std::to_string(i) + "\x02" : markup[i];
        result.emplace_back(name, i == 0 ? 3 : 4);
      }
      return result;
    };
    std::vector<std::string> plain_merges;
    for (const std::string& merge : merges) {
      std::string result = merge;
      result.erase(result.find(' '), 1);
      const bool makes_markup = result == "ab" || result == "ba" || result == "aab";
      if (!makes_markup) plain_merges.push_back(merge);
    }
    cases.push_back({BpeManifest(pre, byte_level(false), merges),
                     BpeManifest(pre, byte_level(true), plain_merges)});
  }
  return cases;
}

TEST(LiteralTextTest, BecomesNoMarkup) {
  std::mt19937 random(9);
  for (const LiteralCase& c : LiteralCases()) {
    const auto tokenizer = CreateOrDie(c.manifest);
    const auto plain = CreateOrDie(c.without_markup);
    for (int i = 0; i < 3000; ++i) {
      static const char* const kParts[] = {
          "a", "b", "a", "b", "ab", "aab", "<c>", "<u>", "<", " ", "\n", "  ", "a\xE2\x96\x81\x61"};
      std::string text;
      for (size_t n = random() % 12; n > 0; --n) text += kParts[random() % 13];
      const TextRange all[] = {{0, text.size()}};
      for (const bool parse_special : {false, true}) {
        EXPECT_EQ(tokenizer->Encode(text, {.parse_special = parse_special, .literal = all}),
                  plain->Encode(text, {.parse_special = parse_special}))
            << text;
      }
      // Cut anywhere, the ranges are the same text.
      const size_t cut = random() % (text.size() + 1);
      const TextRange halves[] = {{0, cut}, {cut, text.size()}};
      EXPECT_EQ(tokenizer->Encode(text, {.literal = halves}), plain->Encode(text, {})) << text;
    }
  }
}

TEST(LiteralTextTest, IsOneTextWithTheTemplateAroundIt) {
  const auto tokenizer = CreateOrDie(LoadGoldenManifest("tiny-bpe.qwen2.gguf"));
  const std::string text = "user: Hello, the world!\n\n  and 12 more";
  const Ids expected = tokenizer->Encode(text, {.parse_special = true});
  for (size_t begin = 0; begin <= text.size(); ++begin) {
    for (size_t end = begin; end <= text.size(); ++end) {
      const TextRange literal[] = {{begin, end}};
      EXPECT_EQ(tokenizer->Encode(text, {.parse_special = true, .literal = literal}), expected);
    }
  }
}

TEST(LiteralTextTest, LeavesTheTemplatesTokensAlone) {
  const auto tokenizer = CreateOrDie(SmallBpe("qwen2"));
  const std::string text = "<|user|><|im_end|><|user|><|im_end|>";  // the middle two by a user
  const TextRange literal[] = {{8, 26}};
  const Ids ids = tokenizer->Encode(text, {.parse_special = true, .literal = literal});
  ASSERT_GT(ids.size(), 10u);
  EXPECT_EQ(ids.front(), 260);
  EXPECT_EQ(ids.back(), 259);
  for (size_t i = 1; i + 1 < ids.size(); ++i) EXPECT_LT(ids[i], 256);
  EXPECT_EQ(tokenizer->Decode(ids, /*render_special=*/true), text);
}

TEST(TokenizerTest, EndOfGenerationByIdAndByName) {
  v1::Manifest manifest = BpeManifest("qwen2",
                                      {{"<|im_end|>", 1},
                                       {"<|eot_id|>", 3},
                                       {"<\xEF\xBD\x9C"
                                        "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                        3},
                                       {"</s>", 1},
                                       {"stop", 3},
                                       {"other", 3},
                                       {"eot", 3},
                                       {"<|fim_pad|>", 3}},
                                      {});
  SetUnsigned(&manifest, "tokenizer.ggml.eos_token_id", 260);
  SetUnsigned(&manifest, "tokenizer.ggml.eot_token_id", 262);
  const auto tokenizer = CreateOrDie(manifest);
  for (int32_t id : {256, 257, 258, 259, 260, 262, 263}) {
    EXPECT_TRUE(tokenizer->IsEndOfGeneration(id)) << id;
  }
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(261));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration('a'));
  EXPECT_EQ(tokenizer->eos(), 260);
  EXPECT_EQ(tokenizer->bos(), std::nullopt);
  // The name made it a control token.
  EXPECT_EQ(tokenizer->TokenBytes(256), "");
}

TEST(TokenizerTest, HarmonyEndIsNotTheEnd) {
  const auto tokenizer = CreateOrDie(BpeManifest(
      "gpt-4o", {{"<|end|>", 3}, {"<|return|>", 3}, {"<|call|>", 3}, {"<|channel|>", 3}}, {}));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(256));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(257));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(258));
  EXPECT_EQ(tokenizer->TokenBytes(259), "<|channel|>");
}

// Quadratic time would take hours here.
TEST(TokenizerTest, AMegabyteOfOneLetter) {
  const std::string text(1 << 20, 'a');
  std::vector<TestToken> tokens;
  std::vector<std::string> merges;
  for (size_t size = 2; size <= 1024; size *= 2) {
    tokens.emplace_back(std::string(size, 'a'), 1);
    merges.push_back(std::string(size / 2, 'a') + " " + std::string(size / 2, 'a'));
  }
  const int32_t longest = 256 + static_cast<int32_t>(tokens.size()) - 1;
  for (const char* pre :
       {"gpt-2", "llama-bpe", "qwen2", "deepseek-v3", "deepseek-llm", "deepseek-coder", "gpt-4o"}) {
    EXPECT_EQ(CreateOrDie(BpeManifest(pre, tokens, merges))->Encode(text, {}), Ids(1024, longest))
        << pre;
  }
  v1::Manifest manifest = SentencePieceManifest(tokens);
  SetBool(&manifest, "tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ(CreateOrDie(manifest)->Encode(text, {}), Ids(1024, longest + 3));
}

TEST(TokenizerTest, ManySpacesLineBreaksDigitsAndBrokenUtf8) {
  for (const char* pre :
       {"gpt-2", "llama-bpe", "qwen2", "deepseek-v3", "deepseek-llm", "deepseek-coder", "gpt-4o",
        "default", "falcon", "kimi-k2", "jais-2", "superbpe", "tiny_aya", "afmoe", "chameleon"}) {
    const auto tokenizer = CreateOrDie(BpeManifest(pre, {{"<|x|>", 3}}, {}));
    for (const char* unit :
         {" ", "\n", "7", "\xC3\xA9", "\xFF", " \t", "\xE2\x80\x8D", "'", "<|x|"}) {
      std::string text;
      while (text.size() < (1 << 17)) text += unit;
      for (const std::string& tail :
           {std::string(), std::string("\xE2\x80\x8D"), std::string("x")}) {
        const Ids ids = tokenizer->Encode(text + tail, {.parse_special = true});
        EXPECT_EQ(ids.size(), text.size() + tail.size()) << pre << " " << unit;
      }
    }
  }
}

TEST(TokenizerTest, SeveralThreadsAtOnce) {
  const auto tokenizer = CreateOrDie(LoadGoldenManifest("tiny-bpe.qwen2.gguf"));
  const std::string text = "The quick brown fox; \xE4\xB8\xAD\xE6\x96\x87 12345 don't\n\n";
  const Ids expected = tokenizer->Encode(text, {});
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) wrong[t] += tokenizer->Encode(text, {}) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace gguf_offload
