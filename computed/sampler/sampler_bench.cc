// Time to choose one of 151,936 tokens.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "computed/sampler/log_probabilities.h"
#include "computed/sampler/sampler.h"

namespace gguf_offload {
namespace {

std::vector<float> Logits() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(151936);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

void Sample(benchmark::State& state, const SamplingOptions& options) {
  std::vector<float> logits = Logits();
  Sampler sampler = *Sampler::Create(options);
  for (auto _ : state) benchmark::DoNotOptimize(sampler.Sample(logits));
}

BENCHMARK_CAPTURE(Sample, greedy, SamplingOptions{.temperature = 0.0f});
BENCHMARK_CAPTURE(Sample, temperature, SamplingOptions{.temperature = 0.8f});
BENCHMARK_CAPTURE(Sample, top_k_40, SamplingOptions{.temperature = 0.8f, .top_k = 40});
BENCHMARK_CAPTURE(Sample, top_p_95, SamplingOptions{.temperature = 0.8f, .top_p = 0.95f});
BENCHMARK_CAPTURE(Sample, min_p_05, SamplingOptions{.temperature = 0.8f, .min_p = 0.05f});
BENCHMARK_CAPTURE(Sample, all,
                  SamplingOptions{
                      .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f});

void LogProbabilitiesOfTop20(benchmark::State& state) {
  const std::vector<float> logits = Logits();
  for (auto _ : state) benchmark::DoNotOptimize(LogProbabilities(logits, 5, 20).chosen);
}
BENCHMARK(LogProbabilitiesOfTop20);

}  // namespace
}  // namespace gguf_offload

BENCHMARK_MAIN();
