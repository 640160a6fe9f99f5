#include "kernels/quant/simd_targets.h"
// After simd_targets.
#include "kernels/matmul/head_matmul.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

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

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Matrices put together from randomly chosen golden blocks, `skipped` rows before each head's, and
// the values of those that count. The blocks end with the last row, so that a memory checker sees
// any read behind it.
struct TestHeads {
  TestHeads(const GoldenBlocks& golden, int heads, int64_t rows, int64_t cols, int64_t skipped,
            uint32_t seed) {
    std::mt19937 random(seed);
    const size_t row_blocks = cols / golden.block_elements;
    const size_t row_bytes = row_blocks * golden.block_bytes;
    blocks = std::make_unique<uint8_t[]>(heads * (rows + skipped) * row_bytes);
    uint8_t* next = blocks.get();
    for (int64_t row = 0; row < heads * (rows + skipped); ++row) {
      for (size_t i = 0; i < row_blocks; ++i) {
        const size_t chosen = random() % (golden.blocks.size() / golden.block_bytes);
        std::memcpy(next, &golden.blocks[chosen * golden.block_bytes], golden.block_bytes);
        next += golden.block_bytes;
        if (row % (rows + skipped) < skipped) continue;
        const float* block_values = &golden.values[chosen * golden.block_elements];
        values.insert(values.end(), block_values, block_values + golden.block_elements);
      }
    }
    weight = {golden.type(), blocks.get() + skipped * row_bytes, heads, rows,
              cols,          (rows + skipped) * row_bytes};
  }
  double At(int head, int64_t row, int64_t column) const {
    return values[(head * weight.rows + row) * weight.cols + column];
  }

  std::unique_ptr<uint8_t[]> blocks;
  std::vector<float> values;  // (heads, rows, cols)
  HeadMatrices weight;
};

// The golden types and F32, whose bytes are its values.
const std::vector<GoldenBlocks>& AllTypes() {
  static const auto& all = *[] {
    auto* types = new std::vector<GoldenBlocks>(quant::AllGoldenBlocks());
    GoldenBlocks f32{"F32", 0, 1, 4, {}, {}};
    for (const GoldenBlocks& golden : *types) {
      if (golden.name == "Q6_K") f32.values = golden.values;
    }
    f32.blocks.resize(f32.values.size() * sizeof(float));
    std::memcpy(f32.blocks.data(), f32.values.data(), f32.blocks.size());
    types->push_back(f32);
    return types;
  }();
  return all;
}

// (n, heads, elements) with gaps of 3 between heads and of 5 between rows, NaN in the gaps.
struct Vectors {
  Vectors(int n, int heads, int64_t elements)
      : head_stride(elements + 3),
        row_stride(heads * head_stride + 5),
        data(n * row_stride, kNan) {}
  float* At(int row, int head) { return &data[row * row_stride + head * head_stride]; }
  int64_t head_stride, row_stride;
  std::vector<float> data;
};

Vectors RandomVectors(int n, int heads, int64_t elements, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Vectors x(n, heads, elements);
  for (int i = 0; i < n; ++i) {
    for (int h = 0; h < heads; ++h) {
      for (int64_t e = 0; e < elements; ++e) x.At(i, h)[e] = normal(random);
    }
  }
  return x;
}

Vectors Product(HeadMatMul& matmul, const HeadMatrices& weight, bool transposed, Vectors& x, int n,
                int first = 0) {
  Vectors y(n, weight.heads, transposed ? weight.cols : weight.rows);
  const HeadInput input = {x.At(first, 0), x.row_stride, x.head_stride};
  const HeadOutput output = {y.data.data(), y.row_stride, y.head_stride};
  if (transposed) {
    matmul.RunTransposed(weight, input, n, output);
  } else {
    matmul.Run(weight, input, n, output);
  }
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Every element against a sum in double, and nothing written between the vectors.
void ExpectProduct(const TestHeads& heads, bool transposed, Vectors& x, Vectors& y, int n) {
  const HeadMatrices& weight = heads.weight;
  const int64_t terms = transposed ? weight.rows : weight.cols;
  const int64_t outputs = transposed ? weight.cols : weight.rows;
  for (int i = 0; i < n; ++i) {
    for (int h = 0; h < weight.heads; ++h) {
      for (int64_t o = 0; o < outputs; ++o) {
        double product = 0, magnitude = 0;
        for (int64_t t = 0; t < terms; ++t) {
          const double term = x.At(i, h)[t] * (transposed ? heads.At(h, t, o) : heads.At(h, o, t));
          product += term;
          magnitude += std::abs(term);
        }
        // Negated, so that NaN fails.
        if (!(std::abs(y.At(i, h)[o] - product) <= 2e-6 * magnitude)) {
          FAIL() << "row " << i << " head " << h << " element " << o << " is " << y.At(i, h)[o]
                 << ", not " << product;
        }
      }
      for (int64_t gap = outputs; gap < y.head_stride; ++gap) {
        ASSERT_TRUE(std::isnan(y.At(i, h)[gap]));
      }
    }
  }
}

void ChooseTargets(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Runs every test once for each instruction set that this processor has.
class HeadMatMulTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { ChooseTargets(GetParam()); }
  void TearDown() override { ChooseTargets(0); }
};

TEST_P(HeadMatMulTest, AgreesWithSumsInDoubleForEveryTypeAtOddSizes) {
  ThreadPool pool(2);
  HeadMatMul matmul(pool);
  uint32_t seed = 1;
  for (const GoldenBlocks& golden : AllTypes()) {
    for (const auto& [head_count, rows, blocks, skipped, n] :
         {std::tuple{1, 1, 1, 0, 1}, {3, 17, 2, 5, 3}, {2, 130, 3, 0, 7}, {5, 33, 1, 64, 6}}) {
      // Plain numbers: column counts that fit no vector.
      const int64_t cols =
          golden.block_elements == 1 ? 131 * blocks : int64_t{blocks} * golden.block_elements;
      const TestHeads heads(golden, head_count, rows, cols, skipped, ++seed);
      for (bool transposed : {false, true}) {
        SCOPED_TRACE(golden.name + " " + std::to_string(rows) + " x " + std::to_string(cols) +
                     (transposed ? " transposed" : ""));
        Vectors x = RandomVectors(n, head_count, transposed ? rows : cols, ++seed);
        Vectors y = Product(matmul, heads.weight, transposed, x, n);
        ExpectProduct(heads, transposed, x, y, n);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(HeadMatMulTest, IsBitIdenticalInPiecesAndThreads) {
  constexpr int kRows = 37, kHeads = 3;
  ThreadPool one(1), three(3);
  HeadMatMul alone(one), shared(three);
  for (const GoldenBlocks& golden : AllTypes()) {
    const int64_t cols = golden.block_elements == 1 ? 300 : 512;
    const TestHeads heads(golden, kHeads, kRows, cols, 2, 9);
    for (bool transposed : {false, true}) {
      SCOPED_TRACE(golden.name);
      Vectors x = RandomVectors(11, kHeads, transposed ? kRows : cols, 10);
      const Vectors whole = Product(shared, heads.weight, transposed, x, 11);
      std::vector<float> pieces;
      for (int first = 0; first < 11;) {
        const int n = std::min(11 - first, first + 1);
        const Vectors piece = Product(alone, heads.weight, transposed, x, n, first);
        pieces.insert(pieces.end(), piece.data.begin(), piece.data.end());
        first += n;
      }
      EXPECT_TRUE(SameBits(whole.data, pieces));
    }
  }
}

// A matrix and its transpose in plain numbers: the same product, up to rounding.
TEST_P(HeadMatMulTest, TheTransposeOfTheTransposeIsTheMatrix) {
  constexpr int kHeads = 2, kRows = 96, kCols = 160;
  ThreadPool pool(2);
  HeadMatMul matmul(pool);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> matrix(kHeads * kRows * kCols), transpose(matrix.size());
  for (int h = 0; h < kHeads; ++h) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCols; ++c) {
        transpose[(h * kCols + c) * kRows + r] = matrix[(h * kRows + r) * kCols + c] =
            normal(random);
      }
    }
  }
  const auto weight = [](const std::vector<float>& values, int rows, int cols) {
    return HeadMatrices{quant::TensorType::kF32,
                        reinterpret_cast<const uint8_t*>(values.data()),
                        kHeads,
                        rows,
                        cols,
                        rows * cols * sizeof(float)};
  };
  Vectors x = RandomVectors(5, kHeads, kRows, 4);
  Vectors a = Product(matmul, weight(matrix, kRows, kCols), true, x, 5);
  Vectors b = Product(matmul, weight(transpose, kCols, kRows), false, x, 5);
  for (int i = 0; i < 5; ++i) {
    for (int h = 0; h < kHeads; ++h) {
      for (int c = 0; c < kCols; ++c) EXPECT_NEAR(a.At(i, h)[c], b.At(i, h)[c], 1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, HeadMatMulTest,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace gguf_offload
