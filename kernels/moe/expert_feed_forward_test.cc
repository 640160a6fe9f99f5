#include "kernels/moe/expert_feed_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/golden_blocks.h"

namespace gguf_offload {
namespace {

using quant::GoldenBlocks;

constexpr int kExperts = 11, kUsed = 3;
constexpr int64_t kDim = 256, kWidth = 512;

// The matrices of all experts, their values and, if wanted, biases and scales.
struct Bank {
  std::vector<uint8_t> blocks;
  std::vector<float> values;  // (experts, rows, cols)
  std::vector<float> bias;    // (experts, rows), or empty
  std::vector<float> scale;   // (experts), or empty
  int64_t rows, cols;
  quant::TensorType type;

  ExpertMatrices matrices() const {
    return {.first = {type, blocks.data(), rows, cols},
            .bias = bias.empty() ? nullptr : bias.data(),
            .scale = scale.empty() ? nullptr : scale.data()};
  }
};

std::vector<float> RandomValues(size_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Of F32 if `golden` is null, else of randomly chosen golden blocks.
Bank MakeBank(const GoldenBlocks* golden, int64_t rows, int64_t cols, bool bias, uint32_t seed) {
  Bank bank{.rows = rows, .cols = cols, .type = quant::TensorType::kF32};
  const size_t elements = kExperts * rows * cols;
  if (golden == nullptr) {
    bank.values = RandomValues(elements, 0.1f, seed);
    bank.blocks.resize(elements * sizeof(float));
    std::memcpy(bank.blocks.data(), bank.values.data(), bank.blocks.size());
  } else {
    std::mt19937 random(seed);
    bank.type = golden->type();
    const size_t choices = golden->blocks.size() / golden->block_bytes;
    while (bank.values.size() < elements) {
      const size_t chosen = random() % choices;
      const auto block = golden->blocks.begin() + chosen * golden->block_bytes;
      bank.blocks.insert(bank.blocks.end(), block, block + golden->block_bytes);
      const auto values = golden->values.begin() + chosen * golden->block_elements;
      bank.values.insert(bank.values.end(), values, values + golden->block_elements);
    }
  }
  if (bias) {
    bank.bias = RandomValues(kExperts * rows, 0.5f, seed + 1);
    bank.scale = RandomValues(kExperts, 1.0f, seed + 2);
  }
  return bank;
}

struct Layer {
  Bank gate, up, down;
  ExpertActivation activation = ExpertActivation::kSwiGlu;

  ExpertFeedForward::Experts experts() const {
    return {kExperts, gate.matrices(), up.matrices(), down.matrices(), activation};
  }
};

Layer MakeLayer(const GoldenBlocks* golden, bool bias, ExpertActivation activation) {
  return {MakeBank(golden, kWidth, kDim, bias, 1), MakeBank(golden, kWidth, kDim, bias, 3),
          MakeBank(golden, kDim, kWidth, bias, 5), activation};
}

ChosenExperts RandomChoice(int n, uint32_t seed) {
  std::mt19937 random(seed);
  ChosenExperts chosen{.n = n, .used = kUsed};
  std::vector<int32_t> ids(kExperts - 1);  // the last expert gets no token
  std::iota(ids.begin(), ids.end(), 0);
  for (int token = 0; token < n; ++token) {
    std::shuffle(ids.begin(), ids.end(), random);
    chosen.experts.insert(chosen.experts.end(), ids.begin(), ids.begin() + kUsed);
    for (int i = 0; i < kUsed; ++i) chosen.weights.push_back(0.1f + random() % 100 / 100.0f);
  }
  return chosen;
}

std::vector<double> Product(const Bank& bank, int expert, const std::vector<double>& x) {
  std::vector<double> y(bank.rows);
  for (int64_t row = 0; row < bank.rows; ++row) {
    const float* w = &bank.values[(expert * bank.rows + row) * bank.cols];
    for (int64_t c = 0; c < bank.cols; ++c) y[row] += double{w[c]} * x[c];
    if (!bank.scale.empty()) y[row] *= bank.scale[expert];
    if (!bank.bias.empty()) y[row] += bank.bias[expert * bank.rows + row];
  }
  return y;
}

// What the experts add to one token, in float64.
std::vector<double> Oracle(const Layer& layer, const ChosenExperts& chosen, int token,
                           const float* x) {
  std::vector<double> sum(kDim);
  for (int i = 0; i < kUsed; ++i) {
    const int expert = chosen.experts[token * kUsed + i];
    std::vector<double> gate = Product(layer.gate, expert, {x, x + kDim});
    const std::vector<double> up = Product(layer.up, expert, {x, x + kDim});
    for (int64_t c = 0; c < kWidth; ++c) {
      if (layer.activation != ExpertActivation::kClampedSwiGlu) {
        const bool gated = layer.activation == ExpertActivation::kSwiGlu;
        gate[c] = gate[c] / (1 + std::exp(-gate[c])) * (gated ? up[c] : 1);
      } else {
        const double g = std::min(gate[c], 7.0), u = std::clamp(up[c], -7.0, 7.0);
        gate[c] = g / (1 + std::exp(-1.702 * g)) * (u + 1);
      }
    }
    const std::vector<double> y = Product(layer.down, expert, gate);
    for (int64_t c = 0; c < kDim; ++c) sum[c] += chosen.weights[token * kUsed + i] * y[c];
  }
  return sum;
}

TEST(ExpertFeedForwardTest, AddsWhatTheChosenExpertsSay) {
  constexpr int kTokens = 9, kStride = kDim + 5;
  ThreadPool pool(3);
  MatMul matmul(pool);
  ExpertFeedForward experts(pool, matmul);
  for (ExpertActivation activation :
       {ExpertActivation::kSwiGlu, ExpertActivation::kClampedSwiGlu, ExpertActivation::kSilu}) {
    const Layer layer =
        MakeLayer(nullptr, activation == ExpertActivation::kClampedSwiGlu, activation);
    for (int n : {kTokens, 1}) {
      const ChosenExperts chosen = RandomChoice(n, 4);
      const std::vector<float> x = RandomValues(n * kStride, 1.0f, 5);
      const std::vector<float> before = RandomValues(n * kStride, 1.0f, 6);
      std::vector<float> out = before;
      experts.AddTo(out.data(), kStride, x.data(), kStride, ActivationType::kFloat32, chosen,
                    layer.experts());
      for (int token = 0; token < n; ++token) {
        const std::vector<double> expected = Oracle(layer, chosen, token, &x[token * kStride]);
        double error = 0, norm = 0;
        for (int64_t c = 0; c < kDim; ++c) {
          const double added = double{out[token * kStride + c]} - before[token * kStride + c];
          error += (added - expected[c]) * (added - expected[c]);
          norm += expected[c] * expected[c];
        }
        EXPECT_LE(error, 1e-11 * norm) << token;
        for (int64_t c = kDim; c < kStride; ++c) {
          EXPECT_EQ(out[token * kStride + c], before[token * kStride + c]);
        }
      }
    }
  }
}

TEST(ExpertFeedForwardTest, GateAndUpMayAlternateInMemory) {
  ThreadPool pool(2);
  MatMul matmul(pool);
  ExpertFeedForward experts(pool, matmul);
  const Layer layer = MakeLayer(nullptr, true, ExpertActivation::kSwiGlu);
  const size_t bytes = kWidth * kDim * sizeof(float);
  std::vector<uint8_t> merged(2 * kExperts * bytes);
  for (int expert = 0; expert < kExperts; ++expert) {
    std::memcpy(&merged[2 * expert * bytes], &layer.gate.blocks[expert * bytes], bytes);
    std::memcpy(&merged[(2 * expert + 1) * bytes], &layer.up.blocks[expert * bytes], bytes);
  }
  ExpertFeedForward::Experts alternating = layer.experts();
  alternating.gate.first.data = merged.data();
  alternating.up.first.data = merged.data() + bytes;
  alternating.gate.stride = alternating.up.stride = 2 * bytes;
  const ChosenExperts chosen = RandomChoice(5, 4);
  const std::vector<float> x = RandomValues(5 * kDim, 1.0f, 5);
  std::vector<float> out(5 * kDim), expected(5 * kDim);
  experts.AddTo(expected.data(), kDim, x.data(), kDim, ActivationType::kInt8, chosen,
                layer.experts());
  experts.AddTo(out.data(), kDim, x.data(), kDim, ActivationType::kInt8, chosen, alternating);
  EXPECT_EQ(out, expected);
}

TEST(ExpertFeedForwardTest, ATokenDoesNotDependOnTheOthersOrOnThreads) {
  constexpr int kTokens = 40;
  ThreadPool one(1), three(3);
  MatMul matmul_one(one), matmul_three(three);
  ExpertFeedForward alone(one, matmul_one), together(three, matmul_three);
  const std::vector<float> x = RandomValues(kTokens * kDim, 1.0f, 5);
  const ChosenExperts chosen = RandomChoice(kTokens, 4);
  for (const GoldenBlocks& golden : quant::AllGoldenBlocks()) {
    SCOPED_TRACE(golden.name);
    const Layer layer = MakeLayer(&golden, true, ExpertActivation::kSwiGlu);
    for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
      std::vector<float> out(kTokens * kDim, 1.0f);
      together.AddTo(out.data(), kDim, x.data(), kDim, activations, chosen, layer.experts());
      for (int token : {0, 17, kTokens - 1}) {
        const auto first = token * kUsed;
        const ChosenExperts of_token{
            .n = 1,
            .used = kUsed,
            .experts = {chosen.experts.begin() + first, chosen.experts.begin() + first + kUsed},
            .weights = {chosen.weights.begin() + first, chosen.weights.begin() + first + kUsed}};
        std::vector<float> row(kDim, 1.0f);
        alone.AddTo(row.data(), kDim, &x[token * kDim], kDim, activations, of_token,
                    layer.experts());
        EXPECT_EQ(std::memcmp(row.data(), &out[token * kDim], kDim * sizeof(float)), 0) << token;
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload
