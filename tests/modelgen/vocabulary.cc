#include "tests/modelgen/vocabulary.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/modelgen/word_merges.h"

namespace gguf_offload {
namespace {

constexpr int32_t kNormal = 1;
constexpr int32_t kControl = 3;
constexpr int32_t kUserDefined = 4;
constexpr int32_t kUnused = 5;

struct SpecialToken {
  std::string text;
  int32_t type = kControl;
};

struct Family {
  std::string pre;
  uint32_t true_size;
  std::vector<SpecialToken> first;  // the vocabulary begins with these
  uint32_t special_begin;  // of the true size: the id of last[0]; unused tokens follow them
  std::vector<SpecialToken> last;
  size_t essential;  // how many of `last` a vocabulary of another size has
  std::string bos;
  std::string eos;
  std::string padding;
  bool add_bos;
};

Family Llama3() {
  Family family{"llama-bpe",         128256,       {}, 128000, {}, 10,
                "<|begin_of_text|>", "<|eot_id|>", "", true};
  int reserved = 0;
  for (int i = 0; i < 256; ++i) {
    std::string text;
    switch (i) {
      case 0:
        text = "<|begin_of_text|>";
        break;
      case 1:
        text = "<|end_of_text|>";
        break;
      case 6:
        text = "<|start_header_id|>";
        break;
      case 7:
        text = "<|end_header_id|>";
        break;
      case 9:
        text = "<|eot_id|>";
        break;
      default:
        text = absl::StrCat("<|reserved_special_token_", reserved++, "|>");
    }
    family.last.push_back({std::move(text)});
  }
  family.padding = family.eos;
  return family;
}

Family Qwen(bool thinks) {
  Family family{"qwen2", 151936,          {},           151643,          {},
                0,       "<|endoftext|>", "<|im_end|>", "<|endoftext|>", false};
  for (const char* text : {"endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end",
                           "box_start", "box_end", "quad_start", "quad_end", "vision_start",
                           "vision_end", "vision_pad", "image_pad", "video_pad"}) {
    family.last.push_back({absl::StrCat("<|", text, "|>")});
  }
  family.last.push_back({"<tool_call>", kUserDefined});
  family.last.push_back({"</tool_call>", kUserDefined});
  for (const char* text :
       {"fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"}) {
    family.last.push_back({absl::StrCat("<|", text, "|>")});
  }
  if (thinks) {
    for (const char* text : {"<tool_response>", "</tool_response>", "<think>", "</think>"}) {
      family.last.push_back({text, kUserDefined});
    }
  }
  family.essential = family.last.size();
  return family;
}

// "begin of sentence" -> its spelling with full-width bars and lower blocks.
std::string DeepSeekName(std::string_view name) {
  std::string text = "<\uff5c";
  for (const char c : name) text += c == ' ' ? std::string("\u2581") : std::string(1, c);
  return text + "\uff5c>";
}

Family DeepSeek() {
  Family family{"deepseek-v3",
                129280,
                {{DeepSeekName("begin of sentence")},
                 {DeepSeekName("end of sentence")},
                 {DeepSeekName(" pad ")}},
                128798,
                {{"<think>", kUserDefined}, {"</think>", kUserDefined}},
                0,
                DeepSeekName("begin of sentence"),
                DeepSeekName("end of sentence"),
                DeepSeekName("end of sentence"),
                true};
  for (const char* name : {"fim hole", "fim begin", "fim end"}) {
    family.last.push_back({DeepSeekName(name), kUserDefined});
  }
  for (const char* name : {"User", "Assistant"}) family.last.push_back({DeepSeekName(name)});
  family.last.push_back({"<|EOT|>"});
  for (const char* name : {"tool calls begin", "tool calls end", "tool call begin", "tool call end",
                           "tool outputs begin", "tool outputs end", "tool output begin",
                           "tool output end", "tool sep"}) {
    family.last.push_back({DeepSeekName(name), kUserDefined});
  }
  family.essential = family.last.size();
  return family;
}

Family FamilyOf(TokenizerFamily family) {
  switch (family) {
    case TokenizerFamily::kLlama3:
      return Llama3();
    case TokenizerFamily::kQwen2:
      return Qwen(/*thinks=*/false);
    case TokenizerFamily::kQwen3:
      return Qwen(/*thinks=*/true);
    case TokenizerFamily::kDeepSeek:
      break;
  }
  return DeepSeek();
}

uint32_t FindToken(const Vocabulary& vocabulary, const std::string& text) {
  return static_cast<uint32_t>(std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), text) -
                               vocabulary.tokens.begin());
}

}  // namespace

uint32_t TrueVocabularySize(TokenizerFamily family) { return FamilyOf(family).true_size; }

absl::StatusOr<Vocabulary> MakeVocabulary(TokenizerFamily which, uint32_t size) {
  Family family = FamilyOf(which);
  const bool true_size = size == family.true_size;
  if (!true_size) family.last.resize(family.essential);
  const size_t least = 256 + family.first.size() + family.last.size();
  if (size < least || size > 1000000) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a vocabulary of ", size, " tokens: must be between ", least, " and a million"));
  }
  const auto special_begin =
      true_size ? family.special_begin : static_cast<uint32_t>(size - family.last.size());

  Vocabulary vocabulary;
  vocabulary.pre = family.pre;
  vocabulary.add_bos = family.add_bos;
  vocabulary.tokens.reserve(size);
  vocabulary.types.reserve(size);
  const auto add = [&vocabulary](std::string text, int32_t type) {
    vocabulary.tokens.push_back(std::move(text));
    vocabulary.types.push_back(type);
  };
  for (SpecialToken& token : family.first) add(std::move(token.text), token.type);
  WordMerges words = MakeWordMerges(special_begin - static_cast<uint32_t>(family.first.size()));
  for (std::string& token : words.tokens) add(std::move(token), kNormal);
  vocabulary.merges = std::move(words.merges);
  for (SpecialToken& token : family.last) add(std::move(token.text), token.type);
  while (vocabulary.tokens.size() < size) {
    add(absl::StrCat("[PAD", vocabulary.tokens.size(), "]"), kUnused);
  }
  vocabulary.bos = FindToken(vocabulary, family.bos);
  vocabulary.eos = FindToken(vocabulary, family.eos);
  vocabulary.padding = FindToken(vocabulary, family.padding);
  return vocabulary;
}

void AddVocabulary(const Vocabulary& vocabulary, GgufWriter* writer) {
  writer->AddMetadata("tokenizer.ggml.model", std::string("gpt2"));
  writer->AddMetadata("tokenizer.ggml.pre", vocabulary.pre);
  writer->AddMetadata("tokenizer.ggml.tokens", vocabulary.tokens);
  writer->AddMetadata("tokenizer.ggml.token_type", vocabulary.types);
  writer->AddMetadata("tokenizer.ggml.merges", vocabulary.merges);
  writer->AddMetadata("tokenizer.ggml.bos_token_id", vocabulary.bos);
  writer->AddMetadata("tokenizer.ggml.eos_token_id", vocabulary.eos);
  writer->AddMetadata("tokenizer.ggml.padding_token_id", vocabulary.padding);
  writer->AddMetadata("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
}

}  // namespace gguf_offload
