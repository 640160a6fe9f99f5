#include "kernels/matmul/half_rows_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class HalfRowsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  struct Converted {
    std::vector<float> out;    // (n, padded)
    std::vector<float> scale;  // (n)
  };
  static Converted Convert(const std::vector<float>& x, int64_t stride, int n, int64_t cols) {
    DeviceArray<float> device_x(x);
    DeviceArray<__half> out(n * PadHalfColumns(cols));
    DeviceArray<float> scale(n);
    RowsToHalf(device_x.data(), stride, n, cols, out.data(), scale.data(), nullptr);
    CheckCuda(cudaGetLastError());
    Converted converted;
    for (__half value : out.ToHost()) converted.out.push_back(__half2float(value));
    converted.scale = scale.ToHost();
    return converted;
  }
};

TEST_F(HalfRowsTest, OrdinaryRowsAreRounded) {
  for (int64_t cols : {1, 7, 8, 172, 173, 4096}) {
    constexpr int kRows = 5;
    const int64_t stride = cols + 3, padded = PadHalfColumns(cols);
    const std::vector<float> x = MakeActivations(kRows, cols, stride, 1);
    const Converted converted = Convert(x, stride, kRows, cols);
    for (int i = 0; i < kRows; ++i) {
      ASSERT_EQ(converted.scale[i], 1.0f);
      for (int64_t c = 0; c < padded; ++c) {
        const float expected = c < cols ? __half2float(__float2half_rn(x[i * stride + c])) : 0.0f;
        ASSERT_EQ(converted.out[i * padded + c], expected)
            << cols << " columns, " << i << ", " << c;
      }
    }
  }
}

// Rows that half precision cannot hold keep eleven bits of their large numbers.
TEST_F(HalfRowsTest, ExtremeRowsAreScaled) {
  constexpr int64_t kCols = 1000;
  const std::vector<float> sizes = {1e6f, 40000.0f, 1e30f, 1e-6f, 1e-20f, 1e-38f};
  const int n = static_cast<int>(sizes.size());
  std::vector<float> x = MakeActivations(n, kCols, kCols, 2);
  for (int i = 0; i < n; ++i) {
    float largest = 0;
    for (int64_t c = 0; c < kCols; ++c) largest = std::max(largest, std::abs(x[i * kCols + c]));
    for (int64_t c = 0; c < kCols; ++c) x[i * kCols + c] *= sizes[i] / largest;
  }
  const Converted converted = Convert(x, kCols, n, kCols);
  for (int i = 0; i < n; ++i) {
    int exponent;
    EXPECT_EQ(std::frexp(converted.scale[i], &exponent), 0.5f) << "no power of two";
    EXPECT_NE(converted.scale[i], 1.0f);
    for (int64_t c = 0; c < kCols; ++c) {
      const double expected = x[i * kCols + c];
      const double value = double{converted.out[i * kCols + c]} * converted.scale[i];
      ASSERT_TRUE(std::abs(value - expected) <= 0x1p-11 * std::abs(expected) + 1e-8 * sizes[i])
          << sizes[i] << ": " << value << ", not " << expected;
    }
  }
}

TEST_F(HalfRowsTest, NonFiniteAndZeroRows) {
  std::vector<float> x(4 * 40, 1.0f);
  x[5] = kInfinity;
  x[40 + 6] = -kInfinity;
  x[80 + 7] = std::numeric_limits<float>::quiet_NaN();
  for (int c = 0; c < 40; ++c) x[120 + c] = 0;
  const Converted converted = Convert(x, 40, 4, 40);
  for (float scale : converted.scale) EXPECT_EQ(scale, 1.0f);
  EXPECT_EQ(converted.out[5], kInfinity);
  EXPECT_EQ(converted.out[46], -kInfinity);
  EXPECT_TRUE(std::isnan(converted.out[87]));
  EXPECT_EQ(converted.out[0], 1.0f);
  for (int c = 0; c < 40; ++c) EXPECT_EQ(converted.out[120 + c], 0.0f);
}

TEST_F(HalfRowsTest, PlainWeightsArePadded) {
  for (TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
    for (int64_t cols : {1, 172, 173, 600}) {
      constexpr int64_t kRows = 9;
      const int64_t padded = PadHalfColumns(cols);
      const DeviceMatrix matrix = MakeMatrix(type, kRows, cols, 3, 8);
      DeviceArray<__half> out(kRows * padded);
      PlainToHalf(type, matrix.blocks->data(), kRows, cols, out.data(), nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      const std::vector<__half> halfs = out.ToHost();
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < padded; ++c) {
          float expected = 0;
          if (c < cols) {
            expected = std::clamp(matrix.values[r * cols + c], -65504.0f, 65504.0f);
            expected = __half2float(__float2half_rn(expected));
          }
          ASSERT_EQ(__half2float(halfs[r * padded + c]), expected) << matrix.name << " " << c;
        }
      }
    }
  }
}

TEST_F(HalfRowsTest, ScalesRowsAndAddsBias) {
  constexpr int kRows = 3;
  for (int64_t rows : {1, 1023, 1024, 1025, 3000}) {
    const int64_t stride = rows + 2;
    const std::vector<float> y = MakeActivations(kRows, rows, stride, 1);
    const std::vector<float> bias = MakeActivations(1, rows, rows, 2), scale = {1, 4, 0.5f};
    DeviceArray<float> device_bias(bias), device_scale(scale);
    DeviceArray<float> device_factor(std::vector<float>{0.25f});
    for (int variant = 0; variant < 8; ++variant) {
      const bool biased = variant & 1, scaled = variant & 2;
      const float factor = variant & 4 ? 0.25f : 1.0f;
      DeviceArray<float> device_y(y);
      ScaleRowsAddBias(
          scaled ? device_scale.data() : nullptr, factor != 1 ? device_factor.data() : nullptr,
          biased ? device_bias.data() : nullptr, device_y.data(), stride, kRows, rows, nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      const std::vector<float> out = device_y.ToHost();
      for (int i = 0; i < kRows; ++i) {
        for (int64_t r = 0; r < rows; ++r) {
          const float expected =
              y[i * stride + r] * ((scaled ? scale[i] : 1.0f) * factor) + (biased ? bias[r] : 0.0f);
          ASSERT_EQ(out[i * stride + r], expected) << i << ", " << r;
        }
        for (int64_t r = rows; r < stride; ++r) ASSERT_TRUE(std::isnan(out[i * stride + r]));
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
