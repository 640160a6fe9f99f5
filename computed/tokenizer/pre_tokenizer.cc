#include "computed/tokenizer/pre_tokenizer.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "computed/tokenizer/pre_tokenizer_scanners.h"

namespace gguf_offload {
namespace {

struct Definition {
  std::vector<std::string_view> names;
  std::vector<PreTokenizer::Scanner> scanners;
  bool ignore_merges = false;
  bool default_add_bos = false;
};

// Names that share a definition differ only in how their models were published.
const std::vector<Definition>& Definitions() {
  using namespace pre_tokenizer;  // NOLINT: the table reads better without the prefix
  static const std::vector<Definition>& definitions = *new std::vector<Definition>{
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling",
        "gigachat", "mellum", "a.x-4.0", "modern-bert"},
       {Gpt2}},
      {{"default"}, {DefaultPunctuation, Gpt2, NumberRuns, AsciiTriples}},
      {{"falcon"}, {FalconPunctuation, Gpt2, AsciiTriples}},
      {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"},
       {EachNumber, Gpt2}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
       {Llama3},
       /*ignore_merges=*/true,
       /*default_add_bos=*/true},
      {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {Llama3}},
      {{"qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
        "kormo", "bailingmoe", "bailingmoe2", "llada-moe"},
       {Qwen2}},
      {{"qwen35"}, {Qwen35}},
      {{"seed-coder"}, {SeedCoder}},
      {{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, {Gpt4o}},
      {{"tekken"}, {Tekken}, /*ignore_merges=*/true, /*default_add_bos=*/true},
      {{"kimi-k2"}, {KimiK2}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm"},
       {NumberTriples, DeepSeekV3Cjk, DeepSeekV3Words}},
      {{"deepseek-llm"},
       {EachLineBreak, DeepSeekLlmLetters, DeepSeekLlmPunctuation, TrailingSpace, DeepSeekCjk,
        NumberRuns}},
      {{"deepseek-coder"},
       {EachLineBreak, SpaceLetters, SpacePunctuation, DeepSeekCjk, EachNumber}},
  };
  return definitions;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::string_view name) {
  std::string known;
  for (const Definition& definition : Definitions()) {
    for (std::string_view candidate : definition.names) {
      if (candidate == name) {
        return PreTokenizer(definition.scanners, definition.ignore_merges,
                            definition.default_add_bos);
      }
      absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(candidate));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.pre: unknown pre-tokenizer \"",
                                                 std::string(name.substr(0, 64)),
                                                 "\"; supported are ", known));
}

std::vector<std::string_view> PreTokenizer::Split(std::string_view text) const {
  const DecodedText decoded(text);
  std::vector<size_t> ends;
  if (decoded.size() > 0) ends.push_back(decoded.size());
  std::vector<size_t> finer;
  for (Scanner scanner : scanners_) {
    finer.clear();
    size_t begin = 0;
    for (size_t end : ends) {
      scanner(decoded, begin, end, &finer);
      begin = end;
    }
    ends.swap(finer);
  }
  std::vector<std::string_view> words;
  words.reserve(ends.size());
  size_t begin = 0;
  for (size_t end : ends) {
    const size_t offset = decoded.offsets[begin];
    words.push_back(text.substr(offset, decoded.offsets[end] - offset));
    begin = end;
  }
  return words;
}

}  // namespace gguf_offload
