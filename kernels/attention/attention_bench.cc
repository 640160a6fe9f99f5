// Speed of attention: prefill in GFLOP/s (4 * keys seen * dimensions a row and head: a
// multiplication and an addition each for q . K and for the weighted values), decode in bytes of
// keys and values read a second. Arguments: tokens, head_dim, n_heads, n_kv_heads, threads,
// float16.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/attention/attention.h"

namespace gguf_offload {
namespace {

struct Setup {
  explicit Setup(const benchmark::State& state, int cached, int rows)
      : head_dim(state.range(1)),
        n_heads(state.range(2)),
        n_kv_heads(state.range(3)),
        pool(state.range(4)),
        pages((cached + kPageTokens - 1) / kPageTokens),
        q(static_cast<size_t>(rows) * n_heads * head_dim),
        out(q.size()) {
    layer.type = state.range(5) ? KvType::kFloat16 : KvType::kFloat32;
    layer.n_kv_heads = n_kv_heads;
    layer.k_dim = layer.v_dim = head_dim;
    keys.resize(pages.size() * layer.PageKeyBytes() / 64 + 1);
    values.resize(pages.size() * layer.PageValueBytes() / 64 + 1);
    layer.keys = keys[0].bytes;
    layer.values = values[0].bytes;
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : q) x = normal(random);
    std::vector<float> kv(static_cast<size_t>(n_kv_heads) * head_dim);
    for (int position = 0; position < cached; ++position) {
      for (float& x : kv) x = normal(random);
      const SequenceRows sequence = {0, 1, position, pages.data()};
      WriteKv(kv.data(), 0, kv.data(), 0, {&sequence, 1}, layer, pool);
    }
  }

  void Run(const SequenceRows& sequence) {
    const AttentionOptions options = {n_heads, 1.0f / std::sqrt(static_cast<float>(head_dim))};
    const size_t stride = static_cast<size_t>(n_heads) * head_dim;
    Attention(q.data(), stride, {&sequence, 1}, layer, options, out.data(), stride, workspace,
              pool);
    benchmark::DoNotOptimize(out.data());
  }

  struct alignas(64) CacheLine {
    uint8_t bytes[64];
  };
  int head_dim, n_heads, n_kv_heads;
  ThreadPool pool;
  KvLayer layer;
  std::vector<CacheLine> keys, values;
  std::vector<int32_t> pages;
  std::vector<float> q, out;
  AttentionWorkspace workspace;
};

void BM_Prefill(benchmark::State& state) {
  const int tokens = state.range(0);
  Setup setup(state, tokens, tokens);
  for (auto _ : state) setup.Run({0, tokens, 0, setup.pages.data()});
  const double flops =
      2.0 * tokens * (tokens + 1) * setup.head_dim * static_cast<double>(setup.n_heads);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_Prefill)
    ->UseRealTime()
    ->Args({512, 64, 32, 8, 1, 0})
    ->Args({512, 128, 32, 8, 1, 0})
    ->Args({512, 128, 16, 16, 1, 0})
    ->Args({512, 128, 32, 8, 1, 1})
    ->Args({512, 128, 32, 8, 2, 0})
    ->Args({4096, 128, 8, 2, 1, 0});

void BM_Decode(benchmark::State& state) {
  const int tokens = state.range(0);
  Setup setup(state, tokens, 1);
  for (auto _ : state) setup.Run({0, 1, tokens - 1, setup.pages.data()});
  state.SetBytesProcessed(state.iterations() * tokens *
                          (setup.layer.PageKeyBytes() + setup.layer.PageValueBytes()) /
                          kPageTokens);
}
BENCHMARK(BM_Decode)
    ->UseRealTime()
    ->Args({32768, 64, 32, 8, 1, 0})
    ->Args({32768, 128, 32, 8, 1, 0})
    ->Args({32768, 128, 16, 16, 1, 0})
    ->Args({32768, 128, 32, 8, 1, 1})
    ->Args({65536, 128, 4, 1, 1, 0})
    ->Args({65536, 128, 4, 1, 2, 0});

}  // namespace
}  // namespace gguf_offload

BENCHMARK_MAIN();
