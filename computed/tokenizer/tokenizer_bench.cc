// Speed of Encode in bytes and tokens a second, on the golden vocabularies.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {
namespace {

constexpr size_t kTextBytes = 1 << 20;

// Prose in several scripts, code and numbers. The counter keeps the lines from being all alike.
std::string MixedText() {
  static const char* const kLines[] = {
      "The quick brown fox jumps over the lazy dog, and %d others watched it go by.\n",
      "for (int i = 0; i < %d; ++i) {\n    total += values[i] * 3.14159;\n}\n",
      "Съешь же ещё %d этих мягких французских булок, да выпей чаю.\n",
      "人工知能は%d年にわたって研究されてきた分野です。モデルを読み込む。\n",
      "It's what we'd said: they'll need %d bytes (or more) -- don't ask.\n\n",
      "Größe: %d Übungen, déjà vu, señor, naïve café.\t🙂🚀\n",
      "{\"id\": %d, \"name\": \"example\", \"tags\": [\"a\", \"b\"], \"ok\": true}\n",
  };
  std::string text;
  for (int i = 0; text.size() < kTextBytes; ++i) {
    char line[256];
    std::snprintf(line, sizeof(line), kLines[i % 7], i * 7919 % 1000003);
    text += line;
  }
  return text;
}

void Encode(benchmark::State& state, const std::string& vocabulary, const std::string& text) {
  const std::unique_ptr<Tokenizer> tokenizer = *Tokenizer::Create(LoadGoldenManifest(vocabulary));
  size_t tokens = 0;
  for (auto _ : state) {
    const std::vector<int32_t> ids = tokenizer->Encode(text, EncodeOptions{});
    benchmark::DoNotOptimize(ids.data());
    tokens += ids.size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

void RegisterAll() {
  for (const char* vocabulary : {"tiny-spm.gguf", "tiny-bpe.gpt-2.gguf", "tiny-bpe.llama-bpe.gguf",
                                 "tiny-bpe.qwen2.gguf", "tiny-bpe.deepseek-v3.gguf",
                                 "tiny-bpe.deepseek-llm.gguf", "tiny-bpe.deepseek-coder.gguf"}) {
    const std::string name = vocabulary;
    benchmark::RegisterBenchmark(("mixed/" + name).c_str(), [name](benchmark::State& state) {
      Encode(state, name, MixedText());
    });
    benchmark::RegisterBenchmark(("one_letter/" + name).c_str(), [name](benchmark::State& state) {
      Encode(state, name, std::string(kTextBytes, 'a'));
    });
  }
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  gguf_offload::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
