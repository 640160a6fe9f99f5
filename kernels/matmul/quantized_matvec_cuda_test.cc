#include "kernels/matmul/quantized_matvec_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr uint32_t kPoison = 0xffffffffu;  // what DeviceArray fills memory with: NaN

// Activations in 8 bits on the device and their meaning.
struct Activations {
  Activations(int n, int64_t cols, uint32_t seed) : Activations(MakeX(n, cols, seed), n, cols) {}
  Activations(const std::vector<float>& x, int n, int64_t cols)
      : host(QuantizeOnHost(x, n, cols, cols)),
        q(host.q.size()),
        scale(host.scale.size()),
        rows{q.data(), scale.data(), cols} {
    DeviceArray<float> device_x(x);
    QuantizeRows(device_x.data(), cols, n, rows, nullptr);
    CheckCuda(cudaGetLastError());
    CheckCuda(cudaDeviceSynchronize());
  }
  static std::vector<float> MakeX(int n, int64_t cols, uint32_t seed) {
    return MakeActivations(n, cols, cols, seed);
  }

  HostQuantizedRows host;
  DeviceArray<int8_t> q;
  DeviceArray<float2> scale;
  QuantizedRows rows;
};

class QuantizedMatVecTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  static std::vector<TensorType> Types() {
    std::vector<TensorType> types;
    for (TensorType type : TestedTypes()) {
      if (IsQuantizedMatVecType(type)) types.push_back(type);
    }
    return types;
  }

  // The first `rows` rows of the matrix times n columns, with a row stride of `stride`.
  static std::vector<float> Run(const DeviceMatrix& matrix, int64_t rows, const Activations& x,
                                int n, int64_t stride, const float* bias = nullptr) {
    DeviceArray<float> y(n * stride);
    const MatVecMatrix one = {matrix.blocks->data(), rows, bias, y.data(), stride};
    QuantizedMatVec(matrix.type, {&one, 1}, matrix.cols, x.rows, n, nullptr);
    CheckCuda(cudaGetLastError());
    return y.ToHost();
  }
};

TEST_F(QuantizedMatVecTest, EveryBlockFormatIsThere) {
  EXPECT_EQ(Types().size(), 25u);
  EXPECT_FALSE(IsQuantizedMatVecType(TensorType::kF16));
  EXPECT_FALSE(IsQuantizedMatVecType(TensorType::kI8));
}

TEST_F(QuantizedMatVecTest, QuantizesRowsAsTheHost) {
  for (const auto& [n, cols] : {std::tuple{1, 32}, {3, 96}, {2, 4096}, {300, 160}}) {
    const int64_t stride = cols + 16;
    std::vector<float> x = MakeActivations(n, cols, stride, n);
    for (int64_t c = 0; c < 32; ++c) x[c] = 0;                            // a group of zeros
    for (int64_t c = 0; c < cols; ++c) x[(n - 1) * stride + c] *= 1e30f;  // and large numbers
    const HostQuantizedRows expected = QuantizeOnHost(x, n, cols, stride);
    DeviceArray<float> device_x(x);
    DeviceArray<int8_t> q(expected.q.size());
    DeviceArray<float2> scale(expected.scale.size());
    QuantizeRows(device_x.data(), stride, n, {q.data(), scale.data(), cols}, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    ASSERT_EQ(q.ToHost(), expected.q) << n << " x " << cols;
    const std::vector<float2> scales = scale.ToHost();
    for (size_t group = 0; group < scales.size(); ++group) {
      ASSERT_EQ(scales[group].x, expected.scale[group]);
      int sum = 0;
      for (int k = 0; k < 32; ++k) sum += expected.q[32 * group + k];
      ASSERT_EQ(scales[group].y, expected.scale[group] * static_cast<float>(sum));
    }
  }
}

// Every type at odd shapes, each product within rounding errors of the exact one.
TEST_F(QuantizedMatVecTest, ProductsAreExactUpToRounding) {
  constexpr int64_t kRows = 300;
  constexpr int kMaxColumns = 33;
  uint32_t seed = 1;
  for (TensorType type : Types()) {
    const int64_t block = quant::FormatOf(type).block_elements;
    std::vector<std::pair<int64_t, size_t>> shapes;  // columns, misalignment
    for (int64_t cols : {block, int64_t{256}, int64_t{4096 + 256}}) {
      shapes.emplace_back(cols, ++seed % 2 == 0 ? 0 : 8);
    }
    // Rows of whole turns have a kernel of their own, if they are aligned.
    if (type == TensorType::kQ6_K) shapes.insert(shapes.end(), {{2048, 0}, {2048, 8}, {6144, 0}});
    for (const auto& [cols, misalignment] : shapes) {
      const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, seed, misalignment);
      const Activations x(kMaxColumns, cols, seed + 1000);
      std::vector<ExactProduct> exact;
      for (int i = 0; i < kMaxColumns; ++i) {
        for (int64_t r = 0; r < kRows; ++r) {
          exact.push_back(Multiply(&matrix.values[r * cols], &x.host.values[i * cols], cols));
        }
      }
      for (int64_t rows : {1, 7, 65, 300}) {
        for (int n : {1, 2, 3, 5, 8, 9, 33}) {
          const int64_t stride = rows + 3;
          const std::vector<float> y = Run(matrix, rows, x, n, stride);
          for (int i = 0; i < n; ++i) {
            for (int64_t r = 0; r < rows; ++r) {
              const ExactProduct& expected = exact[i * kRows + r];
              const float value = y[i * stride + r];
              // Negated, so that NaN fails.
              if (!(std::abs(value - expected.product) <= 5e-6 * expected.magnitude + 1e-30)) {
                FAIL() << matrix.name << " (" << rows << ", " << cols << ") times " << n << ": row "
                       << r << " column " << i << " is " << value << ", not " << expected.product;
              }
            }
            for (int64_t r = rows; r < stride; ++r) {
              ASSERT_EQ(std::bit_cast<uint32_t>(y[i * stride + r]), kPoison) << matrix.name;
            }
          }
        }
      }
    }
  }
}

// The same bits whatever the number of columns.
TEST_F(QuantizedMatVecTest, BatchInvariance) {
  constexpr int64_t kRows = 65;
  constexpr int kMaxColumns = 33;
  for (TensorType type : Types()) {
    for (int64_t cols : {512, 3328, 4096}) {
      if (cols == 4096 && type != TensorType::kQ6_K) continue;
      const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, 3);
      const Activations x(kMaxColumns, cols, 4);
      const std::vector<float> all = Run(matrix, kRows, x, kMaxColumns, kRows);
      for (int n : {1, 2, 3, 4, 7, 16}) {
        const std::vector<float> y = Run(matrix, kRows, x, n, kRows);
        ASSERT_EQ(memcmp(y.data(), all.data(), y.size() * sizeof(float)), 0)
            << matrix.name << " " << n << " columns of " << cols;
      }
    }
  }
}

// Enough rows that warps do not share them; the other tests have few.
TEST_F(QuantizedMatVecTest, ManyRows) {
  constexpr int64_t kRows = 9001;
  constexpr int kColumns = 3;
  for (const auto& [type, cols] : {std::pair<TensorType, int64_t>{TensorType::kQ4_K, 1280},
                                   {TensorType::kQ6_K, 1280},
                                   {TensorType::kQ6_K, 2048},
                                   {TensorType::kQ8_0, 1280}}) {
    const Activations x(kColumns, cols, 7);
    const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, 8);
    for (int n : {1, kColumns}) {
      const std::vector<float> y = Run(matrix, kRows, x, n, kRows);
      for (int i = 0; i < n; ++i) {
        for (int64_t r = 0; r < kRows; ++r) {
          const ExactProduct exact =
              Multiply(&matrix.values[r * cols], &x.host.values[i * cols], cols);
          ASSERT_TRUE(std::abs(y[i * kRows + r] - exact.product) <= 5e-6 * exact.magnitude)
              << matrix.name << " of " << cols << " row " << r << " column " << i;
        }
      }
    }
  }
}

// Matrices of different heights in one launch give what each gives alone, up to the rounding of
// another order of sums; bias is added and gaps between rows stay as they are.
TEST_F(QuantizedMatVecTest, SeveralMatricesAtOnce) {
  constexpr int64_t kCols = 1536;
  const std::vector<int64_t> heights = {65, 1, 300, 8};
  for (TensorType type : Types()) {
    for (int n : {1, 5, 17}) {
      const Activations x(n, kCols, 20 + n);
      std::vector<DeviceMatrix> matrices;
      std::vector<DeviceArray<float>> biases, ys;
      std::vector<std::vector<float>> host_biases;
      std::vector<MatVecMatrix> launch;
      for (size_t i = 0; i < heights.size(); ++i) {
        const int64_t rows = heights[i], stride = rows + i;
        matrices.push_back(MakeMatrix(type, rows, kCols, 30 + i, 8 * (i % 2)));
        host_biases.push_back(MakeActivations(1, rows, rows, 40 + i));
        biases.emplace_back(host_biases.back());
        ys.emplace_back(n * stride);
        launch.push_back({matrices[i].blocks->data(), rows,
                          i % 2 == 0 ? biases.back().data() : nullptr, ys.back().data(), stride});
      }
      QuantizedMatVec(type, launch, kCols, x.rows, n, nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      for (size_t m = 0; m < heights.size(); ++m) {
        const int64_t rows = heights[m], stride = rows + m;
        const std::vector<float> y = ys[m].ToHost();
        for (int i = 0; i < n; ++i) {
          for (int64_t r = 0; r < rows; ++r) {
            const ExactProduct exact =
                Multiply(&matrices[m].values[r * kCols], &x.host.values[i * kCols], kCols);
            const double bias = m % 2 == 0 ? host_biases[m][r] : 0;
            ASSERT_TRUE(std::abs(y[i * stride + r] - (exact.product + bias)) <=
                        5e-6 * (exact.magnitude + std::abs(bias)))
                << matrices[m].name << " matrix " << m << " row " << r << " column " << i;
          }
          for (int64_t r = rows; r < stride; ++r) {
            ASSERT_EQ(std::bit_cast<uint32_t>(y[i * stride + r]), kPoison);
          }
        }
      }
    }
  }
}

// A broken column is seen to be broken, and does not harm the others.
TEST_F(QuantizedMatVecTest, NonFiniteActivationsStayWithTheirColumn) {
  constexpr int64_t kRows = 18, kCols = 512;
  constexpr int kColumns = 5;
  const std::vector<float> good = MakeActivations(kColumns, kCols, kCols, 2);
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> broken = good;
    broken[2 * kCols + 77] = bad;
    DeviceArray<float> device_good(good), device_broken(broken);
    for (TensorType type : Types()) {
      const DeviceMatrix matrix = MakeMatrix(type, kRows, kCols, 1);
      const Activations x(good, kColumns, kCols);
      const std::vector<float> expected = Run(matrix, kRows, x, kColumns, kRows);
      QuantizeRows(device_broken.data(), kCols, kColumns, x.rows, nullptr);
      const std::vector<float> y = Run(matrix, kRows, x, kColumns, kRows);
      for (int i = 0; i < kColumns * kRows; ++i) {
        if (i / kRows == 2) {
          ASSERT_FALSE(std::isfinite(y[i])) << matrix.name << " " << y[i];
        } else {
          ASSERT_EQ(y[i], expected[i]) << matrix.name;
        }
      }
    }
  }
}

TEST_F(QuantizedMatVecTest, ZeroActivationsGiveTheBias) {
  constexpr int64_t kRows = 21, kCols = 512;
  const std::vector<float> bias = MakeActivations(1, kRows, kRows, 3);
  DeviceArray<float> device_bias(bias);
  const Activations x(std::vector<float>(2 * kCols, 0.0f), 2, kCols);
  for (TensorType type : Types()) {
    const DeviceMatrix matrix = MakeMatrix(type, kRows, kCols, 1);
    const std::vector<float> y = Run(matrix, kRows, x, 2, kRows, device_bias.data());
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], bias[i % kRows]) << matrix.name;
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
