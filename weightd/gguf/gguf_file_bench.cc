// How long a header like those of large models takes: 150,000 tokens and merges, 2,000 tensors.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/testing/gguf_builder.h"

namespace gguf_offload::gguf {
namespace {

void ParseLargeHeader(benchmark::State& state) {
  std::vector<std::string> tokens, merges;
  std::string types;
  for (int i = 0; i < 150000; ++i) {
    tokens.push_back("token" + std::to_string(i));
    merges.push_back("tok en" + std::to_string(i));
    types += GgufBuilder::Bytes(int32_t{1});
  }
  GgufBuilder builder;
  builder.Strings("tokenizer.ggml.tokens", tokens).Strings("tokenizer.ggml.merges", merges);
  builder.RawArray("tokenizer.ggml.token_type", static_cast<uint32_t>(ValueType::kInt32),
                   tokens.size(), types);
  for (int i = 0; i < 2000; ++i) {
    builder.Tensor("blk." + std::to_string(i) + ".weight", quant::TensorType::kF32, {8},
                   GgufBuilder::Pattern(32));
  }
  const std::string file = builder.Build();
  for (auto _ : state) {
    auto parsed = ParseGguf({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "bench");
    if (!parsed.ok()) state.SkipWithError("not parsed");
    benchmark::DoNotOptimize(parsed);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * file.size()));
}
BENCHMARK(ParseLargeHeader)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gguf_offload::gguf

BENCHMARK_MAIN();
