#include "kernels/moe/expert_feed_forward_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/moe/expert_sum_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr int kExperts = 6, kUsed = 3;
constexpr int64_t kDim = 256, kWidth = 288;

class ExpertFeedForwardCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// All experts of a layer and what they compute.
struct Layer {
  Layer(TensorType gate_type, TensorType up_type, TensorType down_type, bool bias,
        ExpertActivation activation)
      : gate(MakeMatrix(gate_type, kExperts * kWidth, kDim, 1)),
        up(MakeMatrix(up_type, kExperts * kWidth, kDim, 2)),
        down(MakeMatrix(down_type, kExperts * kDim, kWidth, 3)),
        with_bias(bias),
        activation(activation),
        gate_bias(MakeActivations(1, kExperts * kWidth, kExperts * kWidth, 4)),
        up_bias(MakeActivations(1, kExperts * kWidth, kExperts * kWidth, 5)),
        down_bias(MakeActivations(1, kExperts * kDim, kExperts * kDim, 6)),
        device_gate_bias(gate_bias),
        device_up_bias(up_bias),
        device_down_bias(down_bias),
        scale(MakeActivations(1, kExperts, kExperts, 7)),
        device_scale(scale) {}

  ExpertFeedForward::Experts experts() {
    const auto bias = [this](DeviceArray<float>& array) {
      return with_bias ? array.data() : nullptr;
    };
    ExpertFeedForward::Experts experts = {
        {gate.type, kWidth, kDim, bias(device_gate_bias), gate.blocks->data()},
        {up.type, kWidth, kDim, bias(device_up_bias), up.blocks->data()},
        {down.type, kDim, kWidth, bias(device_down_bias), down.blocks->data()},
        activation};
    if (with_bias) experts.up.scale = experts.down.scale = device_scale.data();
    return experts;
  }

  // y = s W x + b of one expert, in float64; only the gate has no scale.
  std::vector<double> Product(const DeviceMatrix& matrix, const std::vector<float>& bias,
                              int64_t rows, int64_t cols, int expert,
                              const std::vector<double>& x) const {
    std::vector<double> y(rows);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < cols; ++c) {
        sum += double{matrix.values[(expert * rows + r) * cols + c]} * x[c];
      }
      if (with_bias && &matrix != &gate) sum *= scale[expert];
      y[r] = sum + (with_bias ? bias[expert * rows + r] : 0);
    }
    return y;
  }

  std::vector<double> Expert(int expert, const std::vector<double>& x) const {
    std::vector<double> g = Product(gate, gate_bias, kWidth, kDim, expert, x);
    const std::vector<double> u = Product(up, up_bias, kWidth, kDim, expert, x);
    for (int64_t i = 0; i < kWidth; ++i) {
      if (activation == ExpertActivation::kClampedSwiGlu) {
        const double a = std::min(g[i], double{kClampedSwiGluLimit});
        const double b =
            std::clamp(u[i], -double{kClampedSwiGluLimit}, double{kClampedSwiGluLimit});
        g[i] = a / (1 + std::exp(-kClampedSwiGluAlpha * a)) * (b + 1);
      } else {
        const double factor = activation == ExpertActivation::kSilu ? 1 : u[i];
        g[i] = g[i] / (1 + std::exp(-g[i])) * factor;
      }
    }
    return Product(down, down_bias, kDim, kWidth, expert, g);
  }

  DeviceMatrix gate, up, down;
  bool with_bias;
  ExpertActivation activation;
  std::vector<float> gate_bias, up_bias, down_bias;
  DeviceArray<float> device_gate_bias, device_up_bias, device_down_bias;
  std::vector<float> scale;  // (kExperts)
  DeviceArray<float> device_scale;
};

struct Step {
  int rows;
  int int8_rows;
  int chunk_rows;
};

// Runs `layer` on rows of which one has no token, and compares the deviation of all with
// `tolerance` times their magnitude.
void Check(Layer& layer, const Step& run, double tolerance) {
  SCOPED_TRACE(run.rows);
  constexpr int64_t kStride = kDim + 16;
  const int rows = run.rows, without = rows > 2 ? 1 : -1;
  std::mt19937 random(rows);
  std::vector<int32_t> chosen;
  std::vector<float> weights;
  std::vector<int32_t> all(kExperts);
  for (int i = 0; i < kExperts; ++i) all[i] = i;
  for (int row = 0; row < rows; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    for (int i = 0; i < kUsed; ++i) {
      chosen.push_back(row == without ? -1 : all[i]);
      weights.push_back(row == without ? 0 : 0.1f + 0.2f * static_cast<float>(i));
    }
  }
  std::vector<float> x = MakeActivations(rows, kDim, kStride, 8);
  // So that gates are of about the size at which activations bend.
  double squares = 0;
  for (float value : layer.gate.values) squares += double{value} * value;
  const double gate_size = std::sqrt(squares / (kExperts * kWidth));
  for (float& value : x) value *= static_cast<float>(3 / gate_size);
  std::vector<float> residual = MakeActivations(rows, kDim, kStride, 9);

  DeviceArray<int32_t> device_chosen(chosen);
  DeviceArray<float> device_weights(weights), device_x(x), out(residual);
  const ExpertFeedForwardConfig config{.experts = kExperts,
                                       .used = kUsed,
                                       .dim = kDim,
                                       .feed_forward = kWidth,
                                       .int8_rows = run.int8_rows,
                                       .chunk_rows = run.chunk_rows};
  DeviceArray<uint8_t> memory(ExpertFeedForward::WorkspaceBytes(config));
  const ExpertFeedForward feed_forward(config, memory.data());
  ExpertFeedForward::Experts experts = layer.experts();
  DeviceArray<uint32_t> uses(std::vector<uint32_t>(kExperts, 7));
  experts.uses = uses.data();
  DeviceArray<int8_t> q(rows * kDim);
  DeviceArray<float2> scale(rows * kDim / 32);
  QuantizedRows quantized;
  if (feed_forward.WantsQuantized(rows, experts)) {
    quantized = {q.data(), scale.data(), kDim};
    QuantizeRows(device_x.data(), kStride, rows, quantized, nullptr);
  }
  feed_forward.AddTo(out.data(), kStride, device_x.data(), kStride, quantized,
                     {device_chosen.data(), device_weights.data(), rows, kUsed}, experts, nullptr);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  const std::vector<float> result = out.ToHost();

  if (rows == 1) {  // in parts, the last one ending the sum or not: the same bits
    const ChosenExperts all = {device_chosen.data(), device_weights.data(), 1, kUsed};
    for (bool in_one : {false, true}) {
      if (in_one && quantized.q == nullptr) continue;
      DeviceArray<float> in_parts(residual);
      DeviceArray<uint32_t> uses_of_parts(std::vector<uint32_t>(kExperts, 7));
      ExpertFeedForward::Experts counted_apart = experts;
      counted_apart.uses = uses_of_parts.data();
      for (const auto& [first, count] : {std::pair(0, kUsed - 1), std::pair(kUsed - 1, 1)}) {
        const ChosenExperts part = {device_chosen.data() + first, device_weights.data() + first, 1,
                                    count};
        feed_forward.MultiplyInner(device_x.data(), kStride, quantized, part, first, counted_apart,
                                   nullptr);
        if (in_one && first > 0) {
          for (const auto& [begin, end] :
               {std::pair<int64_t, int64_t>(0, 13), std::pair<int64_t, int64_t>(13, kDim)}) {
            feed_forward.MultiplyLastDownAndAdd(in_parts.data(), begin, end, all, counted_apart,
                                                nullptr);
          }
        } else {
          feed_forward.MultiplyDown(quantized.q != nullptr, part, first, counted_apart, nullptr);
        }
      }
      if (!in_one) feed_forward.AddProducts(in_parts.data(), kStride, all, counted_apart, nullptr);
      const std::vector<float> got = in_parts.ToHost();
      EXPECT_EQ(std::memcmp(got.data(), result.data(), got.size() * sizeof(float)), 0) << in_one;
      EXPECT_EQ(uses_of_parts.ToHost(), uses.ToHost());
    }
  }

  const std::vector<uint32_t> counted = uses.ToHost();
  for (int expert = 0; expert < kExperts; ++expert) {
    EXPECT_EQ(counted[expert] - 7, std::count(chosen.begin(), chosen.end(), expert));
  }
  double error = 0, magnitude = 0;
  for (int row = 0; row < rows; ++row) {
    const auto from = x.begin() + row * kStride;
    std::vector<double> sum(kDim, 0.0);
    for (int i = 0; i < kUsed && row != without; ++i) {
      const std::vector<double> y =
          layer.Expert(chosen[row * kUsed + i], std::vector<double>(from, from + kDim));
      for (int64_t c = 0; c < kDim; ++c) sum[c] += weights[row * kUsed + i] * y[c];
    }
    for (int64_t c = 0; c < kDim; ++c) {
      const double got = double{result[row * kStride + c]} - residual[row * kStride + c];
      if (row == without) {
        ASSERT_EQ(got, 0);
      }
      error += (got - sum[c]) * (got - sum[c]);
      magnitude += sum[c] * sum[c];
    }
    for (int64_t c = kDim; c < kStride; ++c) ASSERT_TRUE(std::isnan(result[row * kStride + c]));
  }
  EXPECT_TRUE(error <= tolerance * magnitude) << error / magnitude;
}

constexpr double kInt8Tolerance = 1e-3, kHalfTolerance = 3e-6;

TEST_F(ExpertFeedForwardCudaTest, AddsWhatTheDefinitionSays) {
  Layer layer(TensorType::kQ4_K, TensorType::kQ4_K, TensorType::kQ8_0, false,
              ExpertActivation::kSwiGlu);
  for (int rows : {1, 2, 3, 21}) Check(layer, {rows, 32, 32}, kInt8Tolerance);
  for (const Step& run : {Step{1, 0, 64}, Step{30, 8, 8}, Step{30, 8, 64}}) {
    Check(layer, run, kHalfTolerance);
  }
}

TEST_F(ExpertFeedForwardCudaTest, BiasesAndTheClampedActivation) {
  Layer layer(TensorType::kQ8_0, TensorType::kQ8_0, TensorType::kMXFP4, true,
              ExpertActivation::kClampedSwiGlu);
  for (int rows : {1, 11}) Check(layer, {rows, 32, 32}, kInt8Tolerance);
  Check(layer, {11, 4, 8}, kHalfTolerance);
}

TEST_F(ExpertFeedForwardCudaTest, ExpertsWithoutGates) {
  Layer layer(TensorType::kQ8_0, TensorType::kQ8_0, TensorType::kQ4_0, true,
              ExpertActivation::kSilu);
  for (int rows : {1, 11}) Check(layer, {rows, 32, 32}, kInt8Tolerance);
  Check(layer, {11, 4, 8}, kHalfTolerance);
}

TEST_F(ExpertFeedForwardCudaTest, TypesMayDiffer) {
  Layer mixed(TensorType::kQ6_K, TensorType::kQ4_K, TensorType::kQ5_0, true,
              ExpertActivation::kSwiGlu);
  for (int rows : {2, 7}) Check(mixed, {rows, 8, 8}, kInt8Tolerance);
  Check(mixed, {9, 8, 8}, kHalfTolerance);
  // Plain numbers are never multiplied in 8 bits.
  Layer plain(TensorType::kF16, TensorType::kF16, TensorType::kF32, false,
              ExpertActivation::kSwiGlu);
  Check(plain, {3, 8, 8}, kHalfTolerance);
}

TEST_F(ExpertFeedForwardCudaTest, AddsGatedRows) {
  for (const int64_t cols : {1, 130, 1024}) {
    constexpr int kRows = 3;
    const int64_t stride = cols + 5;
    const std::vector<float> x = MakeActivations(kRows, cols, stride, 1);
    const std::vector<float> gate = MakeActivations(kRows, 1, 16, 2);
    const std::vector<float> before = MakeActivations(kRows, cols, stride, 3);
    DeviceArray<float> device_x(x), device_gate(gate), out(before);
    AddGated(device_x.data(), stride, device_gate.data(), 16, kRows, cols, out.data(), stride,
             nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> result = out.ToHost();
    for (int row = 0; row < kRows; ++row) {
      const double sigmoid = 1 / (1 + std::exp(-double{gate[row * 16]}));
      for (int64_t c = 0; c < stride; ++c) {
        const int64_t i = row * stride + c;
        if (c >= cols) {
          EXPECT_TRUE(std::isnan(result[i]));
        } else {
          EXPECT_NEAR(result[i], before[i] + sigmoid * x[i], 1e-5);
        }
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
