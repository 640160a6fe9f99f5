#include "kernels/quant/simd_targets.h"
// After simd_targets.
#include "kernels/matmul/matmul.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/golden_blocks.h"

namespace gguf_offload {
namespace {

using quant::GoldenBlocks;
using quant::TensorType;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A matrix put together from randomly chosen golden blocks, and its values. The blocks are an
// allocation of exactly their size, so that a memory checker sees any read outside of them.
struct TestMatrix {
  std::string name;
  std::unique_ptr<uint8_t[]> blocks;
  std::vector<float> values;  // (rows, cols)
  WeightMatrix weight;
};

TestMatrix MakeMatrix(const GoldenBlocks& golden, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  const size_t count = rows * cols / golden.block_elements;
  TestMatrix matrix;
  matrix.name = golden.name;
  matrix.blocks = std::make_unique<uint8_t[]>(count * golden.block_bytes);
  for (size_t i = 0; i < count; ++i) {
    const size_t chosen = random() % (golden.blocks.size() / golden.block_bytes);
    memcpy(&matrix.blocks[i * golden.block_bytes], &golden.blocks[chosen * golden.block_bytes],
           golden.block_bytes);
    const float* values = &golden.values[chosen * golden.block_elements];
    matrix.values.insert(matrix.values.end(), values, values + golden.block_elements);
  }
  matrix.weight = {golden.type(), matrix.blocks.get(), rows, cols};
  return matrix;
}

// The golden types and F32, whose bytes are its values.
const std::vector<GoldenBlocks>& AllTypes() {
  static const auto& all = *[] {
    auto* types = new std::vector<GoldenBlocks>(quant::AllGoldenBlocks());
    GoldenBlocks f32{"F32", 0, 1, 4, {}, {}};
    for (const GoldenBlocks& golden : *types) {
      if (golden.name == "Q6_K") f32.values = golden.values;
    }
    f32.blocks.resize(f32.values.size() * sizeof(float));
    memcpy(f32.blocks.data(), f32.values.data(), f32.blocks.size());
    types->push_back(f32);
    return types;
  }();
  return all;
}

// (n, stride): normally distributed, NaN between the rows.
std::vector<float> MakeActivations(int n, int64_t cols, int64_t stride, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n * stride, kNan);
  for (int i = 0; i < n; ++i) {
    for (int64_t c = 0; c < cols; ++c) x[i * stride + c] = normal(random);
  }
  return x;
}

// Activations that quantize to 8 bits without error: k / 128 with a 127 in each group of 32.
std::vector<float> MakeExactActivations(int n, int64_t cols, int64_t stride, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(n * stride, kNan);
  for (int i = 0; i < n; ++i) {
    for (int64_t c = 0; c < cols; ++c) {
      const int k =
          c % 32 == 13 ? (random() % 2 == 0 ? 127 : -127) : static_cast<int>(random() % 255) - 127;
      x[i * stride + c] = static_cast<float>(k) / 128;
    }
  }
  return x;
}

struct Exact {
  double product = 0;    // sum of w * x
  double magnitude = 0;  // sum of |w * x|
  double norms = 0;      // norm of w times norm of x
};

Exact Multiply(const TestMatrix& matrix, int64_t row, const float* x) {
  Exact exact;
  double w2 = 0, x2 = 0;
  for (int64_t c = 0; c < matrix.weight.cols; ++c) {
    const double w = matrix.values[row * matrix.weight.cols + c];
    exact.product += w * x[c];
    exact.magnitude += std::abs(w * x[c]);
    w2 += w * w;
    x2 += double{x[c]} * x[c];
  }
  exact.norms = std::sqrt(w2) * std::sqrt(x2);
  return exact;
}

// Runs one matrix; y is poisoned and has `gap` floats between its rows that must stay untouched.
std::vector<float> RunOne(MatMul& matmul, ActivationType activations, const TestMatrix& matrix,
                          const float* x, int64_t x_stride, int n, const float* bias = nullptr,
                          int64_t gap = 3) {
  const int64_t rows = matrix.weight.rows;
  std::vector<float> y(n * (rows + gap), kNan);
  const MatMulOutput output = {matrix.weight, bias, y.data(), rows + gap};
  matmul.Run(activations, x, x_stride, n, {&output, 1});
  std::vector<float> dense;
  for (int i = 0; i < n; ++i) {
    const float* row = &y[i * (rows + gap)];
    dense.insert(dense.end(), row, row + rows);
    for (int64_t r = rows; r < rows + gap; ++r) {
      EXPECT_EQ(std::bit_cast<uint32_t>(row[r]), std::bit_cast<uint32_t>(kNan)) << matrix.name;
    }
  }
  return dense;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ChooseTargets(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Runs every test once for each instruction set that this processor has.
class MatMulTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { ChooseTargets(GetParam()); }
  void TearDown() override { ChooseTargets(0); }

  ThreadPool pool_{2};
  MatMul matmul_{pool_};
};

// Every type at odd shapes, each output within a rounding error of the exact product.
void ExpectProducts(MatMul& matmul, ActivationType activations) {
  uint32_t seed = 1;
  for (const GoldenBlocks& golden : AllTypes()) {
    for (const auto& [rows, blocks, n] :
         {std::tuple{1, 1, 1}, {15, 2, 3}, {17, 3, 8}, {33, 1, 9}, {16, 5, 40}, {50, 7, 2}}) {
      // Plain numbers: column counts that fit no vector.
      const int64_t cols =
          golden.block_elements == 1 ? 37 * blocks : int64_t{blocks} * golden.block_elements;
      const int64_t stride = cols + 5;
      const TestMatrix matrix = MakeMatrix(golden, rows, cols, ++seed);
      const std::vector<float> x = activations == ActivationType::kInt8
                                       ? MakeExactActivations(n, cols, stride, ++seed)
                                       : MakeActivations(n, cols, stride, ++seed);
      const std::vector<float> y = RunOne(matmul, activations, matrix, x.data(), stride, n);
      for (int i = 0; i < n; ++i) {
        for (int r = 0; r < rows; ++r) {
          const Exact exact = Multiply(matrix, r, &x[i * stride]);
          // Negated, so that NaN fails.
          if (!(std::abs(y[i * rows + r] - exact.product) <= 2e-6 * exact.magnitude)) {
            FAIL() << golden.name << " (" << rows << ", " << cols << ") times " << n << ": row "
                   << r << " token " << i << " is " << y[i * rows + r] << ", not " << exact.product;
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, Float32Activations) { ExpectProducts(matmul_, ActivationType::kFloat32); }

TEST_P(MatMulTest, Int8ActivationsWithoutQuantizationError) {
  ExpectProducts(matmul_, ActivationType::kInt8);
}

TEST_P(MatMulTest, Int8ActivationsAreWithinOnePercent) {
  constexpr int64_t kCols = 4096;
  constexpr int kRows = 20, kTokens = 4;
  const std::vector<float> x = MakeActivations(kTokens, kCols, kCols, 7);
  for (const GoldenBlocks& golden : AllTypes()) {
    const TestMatrix matrix = MakeMatrix(golden, kRows, kCols, 8);
    const std::vector<float> y =
        RunOne(matmul_, ActivationType::kInt8, matrix, x.data(), kCols, kTokens);
    for (int i = 0; i < kTokens; ++i) {
      for (int r = 0; r < kRows; ++r) {
        const Exact exact = Multiply(matrix, r, &x[i * kCols]);
        ASSERT_TRUE(std::abs(y[i * kRows + r] - exact.product) <= 0.01 * exact.norms)
            << golden.name << " row " << r << " token " << i;
      }
    }
  }
}

// The same bits whatever the number of tokens, threads, and the place of the row in its tile.
TEST_P(MatMulTest, BatchInvariance) {
  constexpr int kRows = 35, kTokens = 40;
  for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
    for (const GoldenBlocks& golden : AllTypes()) {
      const int64_t cols =
          golden.block_elements == 1 ? 1100 : (golden.block_elements >= 128 ? 1280 : 1344);
      const TestMatrix matrix = MakeMatrix(golden, kRows, cols, 3);
      const std::vector<float> x = MakeActivations(kTokens, cols, cols, 4);
      std::vector<float> one_by_one;
      for (int i = 0; i < kTokens; ++i) {
        const std::vector<float> y = RunOne(matmul_, activations, matrix, &x[i * cols], cols, 1);
        one_by_one.insert(one_by_one.end(), y.begin(), y.end());
      }
      for (int n : {2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 23, 40}) {
        const std::vector<float> y = RunOne(matmul_, activations, matrix, x.data(), cols, n);
        const std::vector<float> expected(one_by_one.begin(), one_by_one.begin() + n * kRows);
        ASSERT_TRUE(SameBits(y, expected)) << golden.name << " " << n << " tokens";
      }
      for (int threads : {1, 3}) {
        ThreadPool pool(threads);
        MatMul matmul(pool);
        const std::vector<float> y = RunOne(matmul, activations, matrix, x.data(), cols, kTokens);
        ASSERT_TRUE(SameBits(y, one_by_one)) << golden.name << " " << threads << " threads";
      }
      TestMatrix last_row = MakeMatrix(golden, kRows, cols, 3);
      last_row.weight.data += (kRows - 1) * quant::RowBytes(quant::FormatOf(golden.type()), cols);
      last_row.weight.rows = 1;
      const std::vector<float> y = RunOne(matmul_, activations, last_row, x.data(), cols, 1);
      ASSERT_TRUE(SameBits(y, {one_by_one[kRows - 1]})) << golden.name;
    }
  }
}

// Several matrices of all kinds, with and without bias, in one call.
TEST_P(MatMulTest, ManyOutputsAtOnce) {
  constexpr int64_t kCols = 768;
  constexpr int kTokens = 11;
  const std::vector<float> x = MakeActivations(kTokens, kCols, kCols, 5);
  for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
    std::vector<TestMatrix> matrices;
    std::vector<std::vector<float>> biases, separate, together;
    for (const GoldenBlocks& golden : AllTypes()) {
      const int rows = 1 + static_cast<int>(7 * matrices.size() % 40);
      matrices.push_back(MakeMatrix(golden, rows, kCols, 6 + rows));
      biases.push_back(MakeActivations(1, rows, rows, 9));
      const float* bias = matrices.size() % 2 == 0 ? nullptr : biases.back().data();
      separate.push_back(
          RunOne(matmul_, activations, matrices.back(), x.data(), kCols, kTokens, bias, 0));
      together.emplace_back(separate.back().size(), kNan);
    }
    std::vector<MatMulOutput> outputs;
    for (size_t i = 0; i < matrices.size(); ++i) {
      outputs.push_back({matrices[i].weight, i % 2 == 0 ? biases[i].data() : nullptr,
                         together[i].data(), matrices[i].weight.rows});
    }
    matmul_.Run(activations, x.data(), kCols, kTokens, outputs);
    for (size_t i = 0; i < matrices.size(); ++i) {
      EXPECT_TRUE(SameBits(together[i], separate[i])) << matrices[i].name;
    }
  }
}

// Several inputs of different widths, rows and types in one call, some with nothing to do.
TEST_P(MatMulTest, ManyInputsAtOnce) {
  for (ActivationType activations : {ActivationType::kFloat32, ActivationType::kInt8}) {
    std::vector<TestMatrix> matrices;
    std::vector<std::vector<float>> x, y, expected;
    std::vector<int> rows;
    for (size_t i = 0; i < AllTypes().size(); ++i) {
      const int n = std::vector<int>{1, 0, 5, 17, 2}[i % 5];
      const int64_t cols = i % 3 == 0 ? 512 : 256;
      matrices.push_back(MakeMatrix(AllTypes()[i], 3 + 7 * i, cols, i));
      x.push_back(MakeActivations(std::max(n, 1), cols, cols + 2, 50 + i));
      y.push_back(std::vector<float>(n * matrices.back().weight.rows, kNan));
      rows.push_back(n);
      expected.push_back(
          RunOne(matmul_, activations, matrices.back(), x.back().data(), cols + 2, n));
    }
    std::vector<MatMulOutput> outputs;
    for (size_t i = 0; i < matrices.size(); ++i) {
      outputs.push_back({matrices[i].weight, nullptr, y[i].data(), matrices[i].weight.rows});
    }
    std::vector<MatMulInput> inputs;
    for (size_t i = 0; i < matrices.size(); ++i) {
      inputs.push_back({x[i].data(), matrices[i].weight.cols + 2, rows[i], {&outputs[i], 1}});
    }
    inputs.push_back({x[0].data(), 512, 1, {}});
    matmul_.Run(activations, inputs);
    for (size_t i = 0; i < matrices.size(); ++i) {
      EXPECT_TRUE(SameBits(y[i], expected[i])) << matrices[i].name;
    }
  }
}

TEST_P(MatMulTest, BiasIsAdded) {
  const TestMatrix matrix = MakeMatrix(AllTypes()[0], 19, 64, 1);
  const std::vector<float> x = MakeActivations(3, 64, 64, 2);
  const std::vector<float> bias = MakeActivations(1, 19, 19, 3);
  for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
    const auto without = RunOne(matmul_, activations, matrix, x.data(), 64, 3);
    const auto with = RunOne(matmul_, activations, matrix, x.data(), 64, 3, bias.data());
    for (size_t i = 0; i < with.size(); ++i) EXPECT_EQ(with[i], without[i] + bias[i % 19]);
  }
}

TEST_P(MatMulTest, ScaleMultipliesTheProductAheadOfTheBias) {
  const TestMatrix matrix = MakeMatrix(AllTypes()[0], 19, 64, 1);
  const std::vector<float> x = MakeActivations(3, 64, 64, 2);
  const std::vector<float> bias = MakeActivations(1, 19, 19, 3);
  const float scale = 0.625f;
  for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
    const auto plain = RunOne(matmul_, activations, matrix, x.data(), 64, 3);
    std::vector<float> y(3 * 19);
    const MatMulOutput output = {matrix.weight, bias.data(), y.data(), 19, &scale};
    matmul_.Run(activations, x.data(), 64, 3, {&output, 1});
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], plain[i] * scale + bias[i % 19]);
  }
}

TEST_P(MatMulTest, ZeroActivationsGiveTheBias) {
  const std::vector<float> x(2 * 512, 0.0f);
  const std::vector<float> bias = MakeActivations(1, 21, 21, 3);
  for (const GoldenBlocks& golden : AllTypes()) {
    const TestMatrix matrix = MakeMatrix(golden, 21, 512, 1);
    for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
      const auto y = RunOne(matmul_, activations, matrix, x.data(), 512, 2, bias.data());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], bias[i % 21]) << golden.name;
    }
  }
}

// A broken token is seen to be broken, and does not harm the others.
TEST_P(MatMulTest, NonFiniteActivationsStayWithTheirToken) {
  for (float bad : {kNan, std::numeric_limits<float>::infinity()}) {
    for (const GoldenBlocks& golden : AllTypes()) {
      const TestMatrix matrix = MakeMatrix(golden, 18, 512, 1);
      const std::vector<float> good = MakeActivations(5, 512, 512, 2);
      std::vector<float> x = good;
      x[2 * 512 + 77] = bad;
      for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
        const auto expected = RunOne(matmul_, activations, matrix, good.data(), 512, 5);
        const auto y = RunOne(matmul_, activations, matrix, x.data(), 512, 5);
        for (int i = 0; i < 5 * 18; ++i) {
          if (i / 18 == 2) {
            // A weight of exactly zero times infinity is NaN too.
            ASSERT_FALSE(std::isfinite(y[i])) << golden.name << " " << y[i];
          } else {
            ASSERT_EQ(y[i], expected[i]) << golden.name;
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, TinyAndHugeActivations) {
  const TestMatrix matrix = MakeMatrix(AllTypes()[0], 4, 64, 1);
  for (float scale : {1e-38f, 1e-30f, 1e30f}) {
    std::vector<float> x = MakeActivations(1, 64, 64, 2);
    for (float& value : x) value *= scale;
    const auto y = RunOne(matmul_, ActivationType::kInt8, matrix, x.data(), 64, 1);
    for (int r = 0; r < 4; ++r) {
      const Exact exact = Multiply(matrix, r, x.data());
      ASSERT_TRUE(std::abs(y[r] - exact.product) <= 0.02 * exact.norms + 1e-34);
    }
  }
}

TEST_P(MatMulTest, NothingToDo) {
  const TestMatrix matrix = MakeMatrix(AllTypes()[0], 4, 64, 1);
  matmul_.Run(ActivationType::kInt8, nullptr, 64, 1, {});
  const MatMulOutput output = {matrix.weight, nullptr, nullptr, 4};
  matmul_.Run(ActivationType::kInt8, nullptr, 64, 0, {&output, 1});
  // Empty sums are zero.
  float y[4] = {kNan, kNan, kNan, kNan};
  const MatMulOutput empty = {{matrix.weight.type, matrix.weight.data, 4, 0}, nullptr, y, 4};
  matmul_.Run(ActivationType::kInt8, nullptr, 0, 1, {&empty, 1});
  for (float value : y) EXPECT_EQ(value, 0.0f);
}

// Random bits for blocks: any result, but no undefined behaviour.
TEST_P(MatMulTest, HostileBlocks) {
  std::mt19937 random(1);
  for (const GoldenBlocks& golden : AllTypes()) {
    TestMatrix matrix = MakeMatrix(golden, 18, 512, 1);
    const size_t bytes = 18 * quant::RowBytes(quant::FormatOf(golden.type()), 512);
    for (size_t i = 0; i < bytes; ++i) matrix.blocks[i] = static_cast<uint8_t>(random());
    const std::vector<float> x = MakeActivations(3, 512, 512, 2);
    for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
      RunOne(matmul_, activations, matrix, x.data(), 512, 3);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, MatMulTest,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

// Instruction sets with fused multiply-add agree in every bit, whatever their vector width.
TEST(MatMulTargetsTest, AgreeBitForBit) {
  ThreadPool pool(2);
  MatMul matmul(pool);
  constexpr int64_t kCols = 1536;
  const std::vector<float> x = MakeActivations(9, kCols, kCols, 4);
  for (const GoldenBlocks& golden : AllTypes()) {
    const TestMatrix matrix = MakeMatrix(golden, 37, kCols, 3);
    for (ActivationType activations : {ActivationType::kInt8, ActivationType::kFloat32}) {
      std::vector<float> first;
      for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
        if (target == HWY_STATIC_TARGET && target == HWY_SCALAR) continue;  // no fused instruction
        ChooseTargets(target);
        const auto y = RunOne(matmul, activations, matrix, x.data(), kCols, 9);
        if (first.empty()) first = y;
        EXPECT_TRUE(SameBits(y, first)) << golden.name << " " << hwy::TargetName(target);
        ChooseTargets(0);
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload
