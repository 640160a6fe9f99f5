#include "kernels/matmul/float_matvec_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr TensorType kTypes[] = {TensorType::kF32, TensorType::kF16, TensorType::kBF16};

class FloatMatVecTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  // x: (n, x_stride) -> (n, rows + 3), of which the last 3 columns must not be written.
  static std::vector<float> Run(const DeviceMatrix& matrix, int64_t rows, const float* x,
                                int64_t x_stride, int n, const float* bias) {
    const int64_t stride = rows + 3;
    DeviceArray<float> y(n * stride);
    const MatVecMatrix one = {matrix.blocks->data(), rows, bias, y.data(), stride};
    FloatMatVec(matrix.type, {&one, 1}, matrix.cols, x, x_stride, n, nullptr);
    CheckCuda(cudaGetLastError());
    return y.ToHost();
  }
};

// Column counts that fit vectors and that do not, weights and activations at addresses that do and
// do not.
TEST_F(FloatMatVecTest, ProductsAreExactUpToRounding) {
  constexpr int64_t kRows = 300;
  constexpr int kMaxColumns = 33;
  uint32_t seed = 1;
  for (TensorType type : kTypes) {
    for (int64_t cols : {1, 8, 32, 172, 173, 256, 4352}) {
      ++seed;
      const size_t misalignment = seed % 3 == 0 ? 8 : 0;
      const size_t x_misalignment = seed % 5 == 0 ? 4 : 0;
      const int64_t x_stride = seed % 4 == 0 ? cols + 1 : (cols + 15) / 16 * 16;
      const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, seed, misalignment);
      const std::vector<float> x = MakeActivations(kMaxColumns, cols, x_stride, seed + 100);
      const std::vector<float> bias = MakeActivations(1, kRows, kRows, seed + 200);
      DeviceArray<float> device_x(x, x_misalignment), device_bias(bias);
      std::vector<ExactProduct> exact;
      for (int i = 0; i < kMaxColumns; ++i) {
        for (int64_t r = 0; r < kRows; ++r) {
          exact.push_back(Multiply(&matrix.values[r * cols], &x[i * x_stride], cols));
        }
      }
      for (int64_t rows : {1, 7, 65, 300}) {
        for (int n : {1, 2, 3, 5, 8, 9, 33}) {
          const bool biased = n % 2 == 1;
          const std::vector<float> y = Run(matrix, rows, device_x.data(), x_stride, n,
                                           biased ? device_bias.data() : nullptr);
          for (int i = 0; i < n; ++i) {
            for (int64_t r = 0; r < rows; ++r) {
              const ExactProduct& expected = exact[i * kRows + r];
              const double b = biased ? bias[r] : 0;
              const float value = y[i * (rows + 3) + r];
              // Negated, so that NaN fails.
              if (!(std::abs(value - (expected.product + b)) <=
                    5e-6 * (expected.magnitude + std::abs(b)))) {
                FAIL() << matrix.name << " (" << rows << ", " << cols << ") times " << n << ": row "
                       << r << " column " << i << " is " << value << ", not "
                       << expected.product + b;
              }
            }
            for (int64_t r = rows; r < rows + 3; ++r) {
              ASSERT_EQ(std::bit_cast<uint32_t>(y[i * (rows + 3) + r]), 0xffffffffu);
            }
          }
        }
      }
    }
  }
}

TEST_F(FloatMatVecTest, BatchInvariance) {
  constexpr int64_t kRows = 65;
  constexpr int kMaxColumns = 17;
  for (TensorType type : kTypes) {
    for (int64_t cols : {173, 2048}) {
      const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, 3);
      const std::vector<float> x = MakeActivations(kMaxColumns, cols, cols, 4);
      DeviceArray<float> device_x(x);
      const std::vector<float> all =
          Run(matrix, kRows, device_x.data(), cols, kMaxColumns, nullptr);
      for (int n : {1, 2, 3, 7}) {
        const std::vector<float> y = Run(matrix, kRows, device_x.data(), cols, n, nullptr);
        ASSERT_EQ(memcmp(y.data(), all.data(), y.size() * sizeof(float)), 0)
            << matrix.name << " " << n << " columns of " << cols;
      }
    }
  }
}

// Of a norm that the kernel makes itself, with and without something to add and weights, in vectors
// and not; and a column's results do not depend on the others.
TEST_F(FloatMatVecTest, ProductsOfANorm) {
  constexpr int64_t kRows = 37;
  constexpr int kMaxColumns = 11;
  constexpr float kEps = 1e-3f;
  for (const bool adds : {true, false}) {
    for (int64_t cols : {8, 172, 173, 2048, 7168, 9000}) {
      const bool weighs = adds || cols % 2 == 0;
      const auto seed = static_cast<uint32_t>(cols + adds);
      const int64_t residual_stride = cols + 3 - (cols + 3) % 4 + 4, x_stride = residual_stride + 8;
      const DeviceMatrix matrix = MakeMatrix(TensorType::kF32, kRows, cols, seed);
      const std::vector<float> residual =
          MakeActivations(kMaxColumns, cols, residual_stride, seed + 100);
      const std::vector<float> x = MakeActivations(kMaxColumns, cols, x_stride, seed + 200);
      const std::vector<float> weight = MakeActivations(1, cols, cols, seed + 300);
      DeviceArray<float> device_residual(residual), device_x(x), device_weight(weight);
      const auto run = [&](int n) {
        DeviceArray<float> y(n * kRows);
        const MatVecMatrix one = {matrix.blocks->data(), kRows, nullptr, y.data(), kRows};
        FloatMatVecOfNorm(
            {&one, 1}, cols,
            {device_residual.data(), residual_stride, adds ? device_x.data() : nullptr, x_stride,
             weighs ? device_weight.data() : nullptr, kEps},
            n, nullptr);
        CheckCuda(cudaGetLastError());
        return y.ToHost();
      };
      const std::vector<float> all = run(kMaxColumns);
      for (int i = 0; i < kMaxColumns; ++i) {
        std::vector<float> normed(cols);
        double squares = 0;
        for (int64_t c = 0; c < cols; ++c) {
          normed[c] = residual[i * residual_stride + c] + (adds ? x[i * x_stride + c] : 0.0f);
          squares += double{normed[c]} * normed[c];
          if (weighs) normed[c] *= weight[c];
        }
        const double factor = 1 / std::sqrt(squares / cols + kEps);
        for (int64_t r = 0; r < kRows; ++r) {
          const ExactProduct exact = Multiply(&matrix.values[r * cols], normed.data(), cols);
          ASSERT_TRUE(std::abs(all[i * kRows + r] - factor * exact.product) <=
                      5e-6 * factor * exact.magnitude)
              << matrix.name << " " << cols << ": row " << r << " column " << i;
        }
      }
      for (int n : {1, 2, 3, 5}) {
        const std::vector<float> y = run(n);
        ASSERT_EQ(memcmp(y.data(), all.data(), y.size() * sizeof(float)), 0)
            << matrix.name << " " << n << " columns of " << cols;
      }
    }
  }
}

TEST_F(FloatMatVecTest, SeveralMatricesAtOnce) {
  constexpr int64_t kCols = 172;
  constexpr int kColumns = 5;
  const std::vector<float> x = MakeActivations(kColumns, kCols, kCols, 5);
  DeviceArray<float> device_x(x);
  for (TensorType type : kTypes) {
    std::vector<DeviceMatrix> matrices;
    std::vector<DeviceArray<float>> ys;
    std::vector<MatVecMatrix> launch;
    for (int64_t rows : {5, 1, 200}) {
      matrices.push_back(MakeMatrix(type, rows, kCols, 6 + rows));
      ys.emplace_back(kColumns * rows);
      launch.push_back({matrices.back().blocks->data(), rows, nullptr, ys.back().data(), rows});
    }
    FloatMatVec(type, launch, kCols, device_x.data(), kCols, kColumns, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    for (size_t m = 0; m < matrices.size(); ++m) {
      const std::vector<float> y = ys[m].ToHost();
      for (int i = 0; i < kColumns; ++i) {
        for (int64_t r = 0; r < matrices[m].rows; ++r) {
          const ExactProduct exact = Multiply(&matrices[m].values[r * kCols], &x[i * kCols], kCols);
          ASSERT_TRUE(std::abs(y[i * matrices[m].rows + r] - exact.product) <=
                      5e-6 * exact.magnitude)
              << matrices[m].name << " matrix " << m << " row " << r << " column " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
