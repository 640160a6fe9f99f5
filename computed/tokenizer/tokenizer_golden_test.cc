// Every vocabulary and text of tests/testdata/golden/tokenizers, against the ids of llama.cpp, and
// the vocabularies of golden/cases.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {
namespace {

using nlohmann::json;

json LoadCases() {
  std::ifstream file("tests/testdata/golden/tokenizers/cases.json");
  return json::parse(file);
}

TEST(TokenizerGoldenTest, IdsAreThoseOfLlamaCpp) {
  const json cases = LoadCases();
  const EncodeOptions options{.add_bos = cases.at("add_special"),
                              .parse_special = cases.at("parse_special")};
  const std::vector<std::string> texts = cases.at("texts");
  ASSERT_EQ(texts.size(), 76u);
  ASSERT_EQ(cases.at("expected").size(), 7u);
  for (const json& expected : cases.at("expected")) {
    const std::string vocabulary = expected.at("vocab");
    SCOPED_TRACE(vocabulary);
    const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
        Tokenizer::Create(LoadGoldenManifest(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ASSERT_EQ(expected.at("ids").size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::vector<int32_t> ids = (*tokenizer)->Encode(texts[i], options);
      EXPECT_EQ(ids, expected.at("ids")[i].get<std::vector<int32_t>>()) << texts[i];
      EXPECT_EQ((*tokenizer)->Decode(ids, /*render_special=*/true), texts[i]);
    }
  }
}

TEST(TokenizerGoldenTest, EveryByteStringSurvives) {
  const json cases = LoadCases();
  for (const json& expected : cases.at("expected")) {
    const std::string vocabulary = expected.at("vocab");
    SCOPED_TRACE(vocabulary);
    const std::unique_ptr<Tokenizer> tokenizer = *Tokenizer::Create(LoadGoldenManifest(vocabulary));
    std::string all_bytes;
    for (int byte = 0; byte < 256; ++byte) all_bytes.push_back(static_cast<char>(byte));
    for (const std::string& text :
         {all_bytes, std::string("\xFF\xFE ok \xC3"), std::string("\xE4\xB8 a\xE4\xB8\xAD"),
          std::string("\xED\xA0\x80 \xC0\x80 \xF4\x90\x80\x80"), std::string(3, '\0')}) {
      EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, EncodeOptions{})), text);
    }
  }
}

// Vocabularies of which each has something that others read and a strict reader would not.
TEST(GoldenCasesTest, OddVocabulariesWork) {
  for (const char* name :
       {"vocab-plain.gguf", "vocab-add-bos-no-id.gguf", "vocab-id-eot-out-of-range.gguf",
        "vocab-int-scores.gguf", "vocab-longer-types.gguf", "vocab-missing-byte.gguf",
        "vocab-marks-gpt-4o.gguf", "vocab-marks-tekken.gguf", "vocab-pre-minicpm5.gguf",
        "vocab-tilde-deepseek-v3.gguf"}) {
    SCOPED_TRACE(name);
    const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
        Tokenizer::Create(LoadGoldenManifest(name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const std::vector<int32_t> ids = {330, 68, 220, 16, 17};
    for (const bool special : {false, true}) {
      EXPECT_EQ((*tokenizer)->Encode("One 12", {.add_bos = special, .parse_special = true}), ids);
    }
    EXPECT_EQ((*tokenizer)->Decode(ids), "One 12");
  }
}

// "~" is a symbol, so that a space goes with it.
TEST(GoldenCasesTest, TheTildeIsASymbol) {
  const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Create(LoadGoldenManifest("vocab-tilde-deepseek-v3.gguf"));
  EXPECT_EQ(tokenizer->Encode(" ~5 a~-b ~~ x", {}),
            std::vector<int32_t>({700, 20, 258, 701, 65, 700, 93, 220, 87}));
}

TEST(GoldenCasesTest, AMarkIsPartOfAWord) {
  for (const char* name : {"vocab-marks-gpt-4o.gguf", "vocab-marks-tekken.gguf"}) {
    EXPECT_EQ((*Tokenizer::Create(LoadGoldenManifest(name)))->Encode("e\u0301", {}),
              std::vector<int32_t>({701}))
        << name;
  }
  for (const char* pre : {"minimax-m2", "llama4", "kanana2", "kimi-k2"}) {
    v1::Manifest manifest = LoadGoldenManifest("vocab-marks-gpt-4o.gguf");
    SetString(&manifest, "tokenizer.ggml.pre", pre);
    EXPECT_EQ((*Tokenizer::Create(manifest))->Encode("e\u0301", {}), std::vector<int32_t>({701}))
        << pre;
  }
}

TEST(GoldenCasesTest, AMissingByteIsNotTheEndOfTheText) {
  const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Create(LoadGoldenManifest("vocab-missing-byte.gguf"));
  // The byte is 0xF3.
  const std::vector<int32_t> ids = tokenizer->Encode("a\xF3\xA0\x80\x81z", {});
  EXPECT_EQ(tokenizer->Decode(ids), "a\xA0\x80\x81z");
  for (int32_t id : ids) EXPECT_LT(id, 765);
}

}  // namespace
}  // namespace gguf_offload
