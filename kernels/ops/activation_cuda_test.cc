#include "kernels/ops/activation_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/ops/quantized_rows_for_test.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

constexpr float kAlpha = 1.702f, kLimit = 7.0f;

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 6.0f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

double SwiGluOf(double gate, double up) { return gate / (1 + std::exp(-gate)) * up; }

double ClampedSwiGluOf(double gate, double up) {
  const double x = std::min<double>(gate, kLimit);
  const double y = std::min<double>(std::max<double>(up, -kLimit), kLimit);
  return x / (1 + std::exp(-double{kAlpha} * x)) * (y + 1);
}

struct Shape {
  int rows, cols, padding;
  int misaligned_floats = 0;
};

const Shape kShapes[] = {{1, 1, 0},   {2, 3, 1},    {3, 32, 0},     {1, 96, 16},     {5, 100, 4},
                         {2, 512, 0}, {1, 4864, 0}, {2, 12288, 16}, {3, 1056, 0, 1}, {70, 544, 32}};

class ActivationCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  // Gate and up are the halves of one tensor where `fused`; the result replaces the gate where
  // `in_place`.
  void ExpectActivation(const Shape& shape, bool clamped, bool fused, bool in_place) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.cols << (clamped ? " c" : "")
                                    << (fused ? " f" : "") << (in_place ? " i" : ""));
    const size_t stride = (fused ? 2 : 1) * shape.cols + shape.padding;
    const size_t out_stride = in_place ? stride : shape.cols + shape.padding;
    const size_t offset = sizeof(float) * shape.misaligned_floats;
    const std::vector<float> gate = Random(shape.rows * stride, 1);
    const std::vector<float> up = fused ? std::vector<float>(gate.begin() + shape.cols, gate.end())
                                        : Random(shape.rows * stride, 2);
    DeviceArray<float> device_gate(gate, offset), device_up(up, offset);
    DeviceArray<float> apart(shape.rows * out_stride, offset);
    const float* up_data = fused ? device_gate.data() + shape.cols : device_up.data();
    float* out = in_place ? device_gate.data() : apart.data();
    const bool quantize = shape.cols % 32 == 0;
    QuantizedRowsForTest quantized(shape.rows, quantize ? shape.cols : 32);
    const QuantizedRows rows = quantize ? quantized.rows() : QuantizedRows();
    if (clamped) {
      ClampedSwiGlu(device_gate.data(), stride, up_data, stride, kAlpha, kLimit, shape.rows,
                    shape.cols, out, out_stride, rows, nullptr);
    } else {
      SwiGlu(device_gate.data(), stride, up_data, stride, shape.rows, shape.cols, out, out_stride,
             rows, nullptr);
    }
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> result = in_place ? device_gate.ToHost() : apart.ToHost();
    for (int row = 0; row < shape.rows; ++row) {
      for (int i = 0; i < shape.cols; ++i) {
        const double g = gate[row * stride + i], u = up[row * stride + i];
        const double expected = clamped ? ClampedSwiGluOf(g, u) : SwiGluOf(g, u);
        ASSERT_LE(std::abs(result[row * out_stride + i] - expected),
                  3e-6 * std::abs(expected) + 1e-30)
            << row << " " << i;
      }
      for (size_t i = shape.cols; i < out_stride; ++i) {
        const float padding = result[row * out_stride + i];
        if (in_place) {
          ASSERT_EQ(padding, gate[row * stride + i]);
        } else {
          ASSERT_TRUE(std::isnan(padding));
        }
      }
    }
    if (quantize) quantized.ExpectEqual(result, out_stride);
  }
};

TEST_F(ActivationCudaTest, AgreesWithTheDefinition) {
  for (const Shape& shape : kShapes) {
    for (bool clamped : {false, true}) {
      for (bool fused : {false, true}) {
        for (bool in_place : {false, true}) ExpectActivation(shape, clamped, fused, in_place);
      }
    }
  }
}

TEST_F(ActivationCudaTest, NeedsNoFloatOutput) {
  const std::vector<float> gate = Random(2 * 256, 3), up = Random(2 * 256, 4);
  DeviceArray<float> device_gate(gate), device_up(up), out(2 * 256);
  QuantizedRowsForTest quantized(2, 256);
  SwiGlu(device_gate.data(), 256, device_up.data(), 256, 2, 256, out.data(), 256, {}, nullptr);
  SwiGlu(device_gate.data(), 256, device_up.data(), 256, 2, 256, nullptr, 0, quantized.rows(),
         nullptr);
  quantized.ExpectEqual(out.ToHost(), 256);
}

TEST_F(ActivationCudaTest, ExtremesAndNaN) {
  const std::vector<float> gate = {200, -200, NAN, 1, 0, -90, 90, 1};
  const std::vector<float> up = {1, 1, 1, NAN, 5, 2, 2, -100};
  DeviceArray<float> device_gate(gate), device_up(up), plain(8), clamped(8);
  SwiGlu(device_gate.data(), 8, device_up.data(), 8, 1, 8, plain.data(), 8, {}, nullptr);
  ClampedSwiGlu(device_gate.data(), 8, device_up.data(), 8, kAlpha, kLimit, 1, 8, clamped.data(), 8,
                {}, nullptr);
  const std::vector<float> a = plain.ToHost(), b = clamped.ToHost();
  EXPECT_EQ(a[0], 200);
  EXPECT_EQ(a[1], 0);
  EXPECT_EQ(a[4], 0);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(std::isnan(a[i]), i == 2 || i == 3) << i;
    EXPECT_EQ(std::isnan(b[i]), i == 2 || i == 3) << i;
  }
  EXPECT_NEAR(b[0], 14, 1e-4);
  EXPECT_NEAR(b[7], ClampedSwiGluOf(1, -100), 1e-5);
}

}  // namespace
}  // namespace gguf_offload::cuda
