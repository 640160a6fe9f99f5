#include "kernels/ops/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Gates of every magnitude: dense near 0, up to where exponentials over- and underflow.
std::vector<float> Gates(size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 5.0f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  const float special[] = {0.0f, -0.0f, 1e-30f, -1e-30f, 80.0f, -80.0f, 200.0f, -200.0f, 1e30f};
  std::copy_n(special, std::min(n, std::size(special)), x.begin());
  return x;
}

// `exponent` is what the exponential is taken of: its rounding to float alone changes the result by
// the exponent times 2^-24, relatively. Beyond float's range of exponents, sigmoid stays at e^-88.
void ExpectClose(float actual, double expected, double exponent) {
  const double tolerance =
      (1e-6 + std::min(88.0, std::abs(exponent)) * 0x1p-24) * std::abs(expected);
  ASSERT_LE(std::abs(actual - expected), tolerance + 1e-33) << expected;
}

TEST(SwiGluTest, AgreesWithTheDefinition) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    for (size_t dim : {1u, 5u, 16u, 33u, 11008u}) {
      const size_t n = 3, stride = 2 * dim + 1, out_stride = dim + 2;
      // Gate and up are the halves of one tensor.
      const std::vector<float> x = Gates(n * stride);
      std::vector<float> out(n * out_stride, NAN);
      SwiGlu(x.data(), stride, x.data() + dim, stride, n, dim, out.data(), out_stride, pool);
      for (size_t row = 0; row < n; ++row) {
        for (size_t i = 0; i < out_stride; ++i) {
          const float actual = out[row * out_stride + i];
          if (i >= dim) {
            EXPECT_TRUE(std::isnan(actual));
            continue;
          }
          const double gate = x[row * stride + i], up = x[row * stride + dim + i];
          ExpectClose(actual, gate * Sigmoid(gate) * up, 0.0);
        }
      }
    }
  });
}

TEST(SwiGluTest, MayOverwriteItsGateAndKeepsNan) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool one(1), three(3);
    const size_t n = 40, dim = 3001;
    std::vector<float> gate = Gates(n * dim), up = Gates(n * dim + 1);
    gate[76] = NAN;
    up[78] = NAN;
    std::vector<float> out(n * dim, 0.0f);
    SwiGlu(gate.data(), dim, up.data() + 1, dim, n, dim, out.data(), dim, one);
    SwiGlu(gate.data(), dim, up.data() + 1, dim, n, dim, gate.data(), dim, three);
    EXPECT_EQ(std::memcmp(out.data(), gate.data(), n * dim * sizeof(float)), 0);
    EXPECT_EQ(std::count_if(out.begin(), out.end(), [](float x) { return std::isnan(x); }), 2);
    EXPECT_TRUE(std::isnan(out[76]) && std::isnan(out[77]));
  });
}

TEST(ClampedSwiGluTest, AgreesWithTheDefinition) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    const size_t n = 4, dim = 2881;
    std::vector<float> gate = Gates(n * dim), up = Gates(n * dim);
    std::reverse(up.begin(), up.end());
    std::vector<float> out(n * dim, NAN);
    ClampedSwiGlu(gate.data(), dim, up.data(), dim, 1.702f, 7.0f, n, dim, out.data(), dim, pool);
    for (size_t i = 0; i < n * dim; ++i) {
      const double x = std::min(static_cast<double>(gate[i]), 7.0);
      const double y = std::clamp(static_cast<double>(up[i]), -7.0, 7.0);
      const double exponent = static_cast<double>(1.702f) * x;
      ExpectClose(out[i], x * Sigmoid(exponent) * (y + 1.0), exponent);
    }
    gate[1] = NAN;
    up[2] = NAN;
    ClampedSwiGlu(gate.data(), dim, up.data(), dim, 1.702f, 7.0f, n, dim, out.data(), dim, pool);
    EXPECT_TRUE(std::isnan(out[1]) && std::isnan(out[2]));
  });
}

}  // namespace
}  // namespace gguf_offload
