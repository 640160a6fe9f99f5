#include "kernels/ops/norm_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/ops/quantized_rows_for_test.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

constexpr float kEps = 1e-5f;

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

// A tensor's sizes; padding between rows and the offset of the first element decide which of the
// kernels runs.
struct Shape {
  int rows, cols, padding;
  int misaligned_floats = 0;
};

const Shape kShapes[] = {
    {1, 1, 0},       {3, 3, 2},     {2, 32, 0},     {5, 64, 16},     {1, 96, 16},
    {2, 100, 12},    {3, 1000, 24}, {1, 4096, 0},   {2, 4096, 16},   {1, 4100, 12},
    {2, 5120, 0},    {1, 8192, 0},  {2, 8224, 0},   {1, 16384, 0},   {2, 16416, 16},
    {3, 20000, 16},  {130, 64, 16}, {130, 4096, 0}, {129, 5120, 16}, {2, 12288, 0},
    {2, 896, 16, 1}, {4, 4099, 1},  {131, 33, 0},   {2, 64, 0, 3},   {257, 896, 0},
};

class NormCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// Compares `out` with the norm of `x`, both (rows, stride), and expects NaN in out's padding.
void ExpectNorm(const Shape& shape, const std::vector<float>& x, const float* weight,
                const std::vector<float>& out) {
  const size_t stride = shape.cols + shape.padding;
  for (int row = 0; row < shape.rows; ++row) {
    double sum = 0;
    for (int i = 0; i < shape.cols; ++i) sum += std::pow<double>(x[row * stride + i], 2);
    const double scale = 1 / std::sqrt(sum / shape.cols + kEps);
    for (int i = 0; i < shape.cols; ++i) {
      const double expected = x[row * stride + i] * scale * (weight ? weight[i] : 1.0);
      ASSERT_LE(std::abs(out[row * stride + i] - expected), 2e-6 * std::abs(expected))
          << row << " " << i;
    }
    for (size_t i = shape.cols; i < stride; ++i) ASSERT_TRUE(std::isnan(out[row * stride + i]));
  }
}

void ExpectUnchanged(const std::vector<float>& before, const std::vector<float>& after) {
  for (size_t i = 0; i < before.size(); ++i) ASSERT_EQ(before[i], after[i]) << i;
}

std::string Describe(const Shape& s) {
  return std::to_string(s.rows) + " x " + std::to_string(s.cols) + " + " +
         std::to_string(s.padding) + " at " + std::to_string(s.misaligned_floats);
}

TEST_F(NormCudaTest, RmsNormAgreesWithTheDefinition) {
  for (const Shape& shape : kShapes) {
    for (bool weighted : {false, true}) {
      SCOPED_TRACE(Describe(shape));
      const size_t stride = shape.cols + shape.padding, size = shape.rows * stride;
      const size_t offset = sizeof(float) * shape.misaligned_floats;
      const std::vector<float> x = Random(size, 1), weights = Random(shape.cols, 2);
      DeviceArray<float> device_x(x, offset), device_weights(weights, offset), out(size, offset);
      const bool quantize = shape.cols % 32 == 0;
      QuantizedRowsForTest quantized(shape.rows, quantize ? shape.cols : 32);
      RmsNorm(device_x.data(), stride, weighted ? device_weights.data() : nullptr, kEps, shape.rows,
              shape.cols, out.data(), stride, quantize ? quantized.rows() : QuantizedRows(),
              nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      const std::vector<float> result = out.ToHost();
      ExpectNorm(shape, x, weighted ? weights.data() : nullptr, result);
      if (quantize) quantized.ExpectEqual(result, stride);
      ExpectUnchanged(x, device_x.ToHost());
    }
  }
}

TEST_F(NormCudaTest, RmsNormWorksInPlaceAndWithoutFloatOutput) {
  for (const Shape& shape : {Shape{2, 4096, 0}, Shape{3, 100, 4}, Shape{2, 33, 1}}) {
    SCOPED_TRACE(Describe(shape));
    const size_t stride = shape.cols + shape.padding;
    const std::vector<float> x = Random(shape.rows * stride, 3);
    DeviceArray<float> device_x(x), out(x.size());
    RmsNorm(device_x.data(), stride, nullptr, kEps, shape.rows, shape.cols, out.data(), stride, {},
            nullptr);
    if (shape.cols % 32 == 0) {
      QuantizedRowsForTest quantized(shape.rows, shape.cols);
      RmsNorm(device_x.data(), stride, nullptr, kEps, shape.rows, shape.cols, nullptr, 0,
              quantized.rows(), nullptr);
      quantized.ExpectEqual(out.ToHost(), stride);
    }
    RmsNorm(device_x.data(), stride, nullptr, kEps, shape.rows, shape.cols, device_x.data(), stride,
            {}, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> in_place = device_x.ToHost(), apart = out.ToHost();
    for (int row = 0; row < shape.rows; ++row) {
      for (int i = 0; i < shape.cols; ++i) {
        ASSERT_EQ(in_place[row * stride + i], apart[row * stride + i]);
      }
    }
  }
}

// Two matrices at once, in place: the bits of two calls, the first one's in 8 bits too.
TEST_F(NormCudaTest, RmsNormBothIsTwoNorms) {
  struct Case {
    int rows;
    int cols[2];
    int misaligned_floats;
  };
  for (const Case& c : {Case{1, {1536, 512}, 0}, Case{3, {64, 4096}, 0}, Case{130, {96, 32}, 0},
                        Case{2, {8192, 512}, 0}, Case{2, {256, 100}, 1}}) {
    SCOPED_TRACE(c.cols[0]);
    const size_t offset = sizeof(float) * c.misaligned_floats;
    std::vector<DeviceArray<float>> together, alone, weights;
    for (int i = 0; i < 2; ++i) {
      const std::vector<float> x = Random(c.rows * c.cols[i], 7 + i);
      together.emplace_back(x, offset);
      alone.emplace_back(x, offset);
      weights.emplace_back(Random(c.cols[i], 9 + i), offset);
    }
    QuantizedRowsForTest quantized(c.rows, c.cols[0]);
    const auto rows_of = [&](int i) {
      return NormedRows{together[i].data(), c.cols[i], weights[i].data(), c.cols[i]};
    };
    RmsNormBoth(rows_of(0), rows_of(1), kEps, c.rows, quantized.rows(), nullptr);
    for (int i = 0; i < 2; ++i) {
      RmsNorm(alone[i].data(), c.cols[i], weights[i].data(), kEps, c.rows, c.cols[i],
              alone[i].data(), c.cols[i], {}, nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      EXPECT_EQ(together[i].ToHost(), alone[i].ToHost());
    }
    quantized.ExpectEqual(together[0].ToHost(), c.cols[0]);
  }
}

TEST_F(NormCudaTest, AddRmsNormAddsThenNormalizes) {
  for (const Shape& shape : kShapes) {
    for (bool in_place : {false, true}) {
      SCOPED_TRACE(Describe(shape));
      const size_t stride = shape.cols + shape.padding, size = shape.rows * stride;
      const size_t offset = sizeof(float) * shape.misaligned_floats;
      std::vector<float> residual = Random(size, 4), x = Random(size, 5);
      const std::vector<float> weights = Random(shape.cols, 6);
      for (int row = 0; row < shape.rows; ++row) {
        for (size_t i = shape.cols; i < stride; ++i) {
          residual[row * stride + i] = x[row * stride + i] = NAN;
        }
      }
      DeviceArray<float> device_residual(residual, offset), device_x(x, offset);
      DeviceArray<float> device_weights(weights, offset), apart(size, offset);
      DeviceArray<float>& out = in_place ? device_x : apart;
      const bool quantize = shape.cols % 32 == 0;
      QuantizedRowsForTest quantized(shape.rows, quantize ? shape.cols : 32);
      AddRmsNorm(device_residual.data(), stride, device_x.data(), stride, device_weights.data(),
                 kEps, shape.rows, shape.cols, out.data(), stride,
                 quantize ? quantized.rows() : QuantizedRows(), nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      const std::vector<float> sum = device_residual.ToHost(), result = out.ToHost();
      for (int row = 0; row < shape.rows; ++row) {
        for (int i = 0; i < shape.cols; ++i) {
          const size_t at = row * stride + i;
          ASSERT_EQ(sum[at], residual[at] + x[at]) << row << " " << i;
        }
        for (size_t i = shape.cols; i < stride; ++i) {
          ASSERT_TRUE(std::isnan(sum[row * stride + i]));
        }
      }
      ExpectNorm(shape, sum, weights.data(), result);
      if (quantize) quantized.ExpectEqual(result, stride);
    }
  }
}

TEST_F(NormCudaTest, AddAdds) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Describe(shape));
    const size_t stride = shape.cols + shape.padding, x_stride = stride + 4;
    const size_t offset = sizeof(float) * shape.misaligned_floats;
    const std::vector<float> residual = Random(shape.rows * stride, 7);
    const std::vector<float> x = Random(shape.rows * x_stride, 8);
    DeviceArray<float> device_residual(residual, offset), device_x(x, offset);
    Add(device_residual.data(), stride, device_x.data(), x_stride, shape.rows, shape.cols, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> sum = device_residual.ToHost();
    for (int row = 0; row < shape.rows; ++row) {
      for (size_t i = 0; i < stride; ++i) {
        const float added = i < static_cast<size_t>(shape.cols) ? x[row * x_stride + i] : 0;
        ASSERT_EQ(sum[row * stride + i], residual[row * stride + i] + added) << row << " " << i;
      }
    }
  }
}

TEST_F(NormCudaTest, NaNStaysInItsRow) {
  std::vector<float> x = Random(3 * 64, 9);
  x[64 + 5] = NAN;
  DeviceArray<float> device_x(x), out(x.size());
  RmsNorm(device_x.data(), 64, nullptr, kEps, 3, 64, out.data(), 64, {}, nullptr);
  const std::vector<float> result = out.ToHost();
  for (int i = 0; i < 3 * 64; ++i) ASSERT_EQ(std::isnan(result[i]), i / 64 == 1) << i;
}

}  // namespace
}  // namespace gguf_offload::cuda
