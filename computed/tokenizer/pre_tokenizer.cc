#include "computed/tokenizer/pre_tokenizer.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "computed/tokenizer/pre_tokenizer_scanners.h"

namespace gguf_offload {
namespace {

using Settings = PreTokenizerSettings;

struct Definition {
  std::vector<std::string_view> names;
  std::vector<PreTokenizer::Scanner> scanners;
  PreTokenizerSettings settings = {};
};

// Names that share a definition differ only in how their models were published, or in what is of no
// concern here: whether a separator token ends a text (for encoders), and whether spaces before
// punctuation are to be dropped from decoded text (which would not be what the model wrote).
const std::vector<Definition>& Definitions() {
  using namespace pre_tokenizer;  // NOLINT: the table reads better without the prefix
  const Settings whole_words = {.ignore_merges = true};
  const Settings whole_words_and_bos = {.ignore_merges = true, .add_bos = Settings::kByDefault};
  static const std::vector<Definition>& definitions = *new std::vector<Definition>{
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "gigachat", "mellum",
        "a.x-4.0", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code",
        "roberta-bpe", "modern-bert", "granite-docling"},
       {Gpt2}},
      {{"default"}, {DefaultPunctuation, Gpt2, NumberRuns, AsciiTriples}},
      {{"falcon"}, {FalconPunctuation, Gpt2, AsciiTriples}},
      {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
        "mellum2"},
       {EachNumber, Gpt2}},
      {{"chameleon"},
       {ChameleonSentinels, ChameleonImageTokens, ChameleonSpaces, EachNumber, EachPunctuation,
        Gpt2},
       {.add_bos = Settings::kByDefault}},
      {{"poro-chat", "bloom", "gpt3-finnish"}, {BloomWords}},
      {{"viking"}, {BloomWords, EachNumber}},
      {{"superbpe"}, {NumberRuns, CutsBeforeDigitTriples}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano"},
       {Llama3},
       whole_words_and_bos},
      {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {Llama3}},
      {{"jais-2"}, {Jais2}},
      {{"minicpm5"}, {NumberTriples, MiniCpm5}, whole_words},
      {{"qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
        "kormo", "bailingmoe", "bailingmoe2", "llada-moe", "f2llmv2"},
       {Qwen2}},
      {{"qwen35"}, {Qwen35}},
      {{"laguna"}, {Lines, Qwen2}},
      {{"seed-coder"}, {SeedCoder}},
      {{"ufakzeka"}, {Ufakzeka}},
      {{"exaone-moe"}, {ExaoneMoe}},
      {{"gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"}, {O200k}},
      {{"granite-embed-multi-97m"}, {O200k}, whole_words},
      {{"tiny_aya", "cohere2moe"}, {DigitTriplesBeforeBoundary, O200k}},
      {{"tekken"}, {Tekken}, whole_words_and_bos},
      {{"youtu"}, {YoutuScripts, Youtu}, whole_words},
      {{"kimi-k2"}, {KimiK2}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
       {NumberTriples, DeepSeekV3Cjk, DeepSeekV3Words}},
      {{"spark2_5"}, {NumberTriples, DeepSeekV3Cjk, SparkWords, EachNumber}},
      {{"afmoe"}, {NumberTriplesFromTheRight, AfmoeScripts, DeepSeekV3Words}},
      {{"deepseek-llm"},
       {EachLineBreak, DeepSeekLlmLetters, DeepSeekLlmPunctuation, TrailingSpace, DeepSeekCjk,
        NumberRuns}},
      {{"deepseek-coder"},
       {EachLineBreak, SpaceLetters, SpacePunctuation, DeepSeekCjk, EachNumber}},
      {{"gemma4", "granite-embed-multi-311m"},
       {Lines},
       {.add_bos = Settings::kAlways,
        .plain_tokens = true,
        .escape_spaces = true,
        .whole_line_breaks = true}},
      {{"sarvam-moe"}, {Lines}, {.plain_tokens = true, .escape_spaces = true}},
      {{"whitespace"}, {NonSpaces}, {.plain_tokens = true}},
  };
  return definitions;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::string_view name) {
  for (const Definition& definition : Definitions()) {
    for (std::string_view candidate : definition.names) {
      if (candidate == name) return PreTokenizer(definition.scanners, definition.settings);
    }
  }
  std::string known;
  for (std::string_view candidate : Names()) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(candidate));
  }
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.pre: unknown pre-tokenizer \"",
                                                 std::string(name.substr(0, 64)),
                                                 "\"; supported are ", known));
}

std::vector<std::string_view> PreTokenizer::Names() {
  std::vector<std::string_view> names;
  for (const Definition& definition : Definitions()) {
    names.insert(names.end(), definition.names.begin(), definition.names.end());
  }
  return names;
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
