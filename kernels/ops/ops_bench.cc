// Bytes read and written a second by the float operations, and positions a second by RopeAngles.
#include <benchmark/benchmark.h>

#include <numeric>
#include <vector>

#include "kernels/ops/activation.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/vector.h"

namespace gguf_offload {
namespace {

constexpr size_t kRows = 64, kDim = 4096;

void BM_RmsNorm(benchmark::State& state) {
  ThreadPool pool(1);
  std::vector<float> x(kRows * kDim, 0.5f), out(x.size()), weight(kDim, 1.0f);
  for (auto _ : state) {
    RmsNorm(x.data(), kDim, weight.data(), 1e-5f, kRows, kDim, out.data(), kDim, pool);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * 2 * x.size() * sizeof(float));
}
BENCHMARK(BM_RmsNorm);

void BM_SwiGlu(benchmark::State& state) {
  ThreadPool pool(1);
  std::vector<float> gate(kRows * kDim, 0.5f), up(gate), out(gate.size());
  for (auto _ : state) {
    SwiGlu(gate.data(), kDim, up.data(), kDim, kRows, kDim, out.data(), kDim, pool);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * 3 * gate.size() * sizeof(float));
}
BENCHMARK(BM_SwiGlu);

void BM_Rope(benchmark::State& state) {
  ThreadPool pool(1);
  const size_t heads = kDim / 128;
  const RopeFrequencies frequencies({.rope_dims = 128});
  std::vector<int32_t> positions(kRows);
  std::iota(positions.begin(), positions.end(), 1000);
  RopeAngles angles;
  angles.Compute(frequencies, positions.data(), kRows, pool);
  std::vector<float> x(kRows * kDim, 0.5f);
  const auto style = state.range(0) ? RopeStyle::kNeox : RopeStyle::kNormal;
  for (auto _ : state) {
    Rope(x.data(), kDim, 128, heads, angles, style, pool);
    benchmark::DoNotOptimize(x.data());
  }
  state.SetBytesProcessed(state.iterations() * 2 * x.size() * sizeof(float));
}
BENCHMARK(BM_Rope)->Arg(0)->Arg(1);

void BM_RopeAngles(benchmark::State& state) {
  ThreadPool pool(1);
  const RopeFrequencies frequencies({.rope_dims = 128});
  std::vector<int32_t> positions(kRows);
  std::iota(positions.begin(), positions.end(), 100000);
  RopeAngles angles;
  for (auto _ : state) {
    angles.Compute(frequencies, positions.data(), kRows, pool);
    benchmark::DoNotOptimize(angles.cosines());
  }
  state.SetItemsProcessed(state.iterations() * kRows);
}
BENCHMARK(BM_RopeAngles);

void BM_Softmax(benchmark::State& state) {
  std::vector<float> x(151936, 0.5f), out(x.size());
  for (auto _ : state) {
    Softmax(x.data(), x.size(), out.data());
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * 2 * x.size() * sizeof(float));
}
BENCHMARK(BM_Softmax);

void BM_ArgMax(benchmark::State& state) {
  std::vector<float> x(151936, 0.5f);
  x.back() = 1.0f;
  for (auto _ : state) benchmark::DoNotOptimize(ArgMax(x.data(), x.size()));
  state.SetBytesProcessed(state.iterations() * x.size() * sizeof(float));
}
BENCHMARK(BM_ArgMax);

}  // namespace
}  // namespace gguf_offload

BENCHMARK_MAIN();
