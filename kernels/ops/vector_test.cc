#include "kernels/ops/vector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

constexpr size_t kSizes[] = {1, 2, 15, 16, 31, 100, 151936 + 3};

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 8.0f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

TEST(VectorTest, AddScaleAddScaled) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    for (size_t n : kSizes) {
      const std::vector<float> x = Random(n, 1), y = Random(n, 2);
      std::vector<float> sum(n + 1, NAN), scaled(n + 1, NAN), both = y;
      Add(x.data(), y.data(), n, sum.data());
      Scale(x.data(), 0.3f, n, scaled.data());
      AddScaled(x.data(), 0.3f, n, both.data());
      for (size_t i = 0; i < n; ++i) {
        ASSERT_EQ(sum[i], x[i] + y[i]);
        ASSERT_EQ(scaled[i], x[i] * 0.3f);
        ASSERT_NEAR(both[i], y[i] + static_cast<double>(x[i]) * 0.3f, 4e-6);
      }
      EXPECT_TRUE(std::isnan(sum[n]) && std::isnan(scaled[n]));
    }
  });
}

TEST(SoftmaxTest, AgreesWithTheDefinition) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    for (size_t n : kSizes) {
      std::vector<float> x = Random(n, 3), out(n + 1, NAN);
      if (n > 20) x[7] = x[n - 1] = -INFINITY;
      Softmax(x.data(), n, out.data());
      const double largest = *std::max_element(x.begin(), x.end());
      double sum = 0;
      for (float value : x) sum += std::exp(value - largest);
      for (size_t i = 0; i < n; ++i) {
        const double expected = std::exp(x[i] - largest) / sum;
        // Rounding x - largest to float alone changes the result by that times 2^-24.
        const double tolerance = 2e-6 + std::min(87.0, largest - x[i]) * 0x1p-24;
        ASSERT_LE(std::abs(out[i] - expected), tolerance * expected) << i;
      }
      EXPECT_TRUE(std::isnan(out[n]));
      Softmax(x.data(), n, x.data());
      EXPECT_TRUE(std::equal(x.begin(), x.end(), out.begin()));
    }
  });
}

TEST(SoftmaxTest, LargeLogitsAndNan) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    std::vector<float> x(20, 1e30f), out(20, NAN);
    x[3] = -1e30f;
    Softmax(x.data(), 20, out.data());
    EXPECT_EQ(out[3], 0.0f);
    EXPECT_FLOAT_EQ(out[0], 1.0f / 19);
    for (size_t at : {0u, 19u}) {
      std::vector<float> poisoned = x;
      poisoned[at] = NAN;
      Softmax(poisoned.data(), 20, out.data());
      for (float value : out) EXPECT_TRUE(std::isnan(value));
    }
  });
}

TEST(ArgMaxTest, FirstOfEqualsAndNanNeverWins) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    for (size_t n : kSizes) {
      std::vector<float> x = Random(n, 4);
      EXPECT_EQ(ArgMax(x.data(), n),
                static_cast<size_t>(std::max_element(x.begin(), x.end()) - x.begin()));
      // The largest at every position near the borders of vectors, with an equal after it.
      for (size_t at = 0; at < std::min<size_t>(n, 70); ++at) {
        std::vector<float> y(std::min<size_t>(n, 100), -3.0f);
        y[at] = 2.0f;
        y.back() = 2.0f;
        if (at > 0) y[0] = NAN;
        EXPECT_EQ(ArgMax(y.data(), y.size()), at);
      }
    }
    const float infinite[] = {NAN, -INFINITY, NAN, -INFINITY};
    EXPECT_EQ(ArgMax(infinite, 4), 1u);
    const std::vector<float> nothing(37, NAN);
    EXPECT_EQ(ArgMax(nothing.data(), nothing.size()), 0u);
    const float zeros[] = {-0.0f, 0.0f};
    EXPECT_EQ(ArgMax(zeros, 2), 0u);
  });
}

}  // namespace
}  // namespace gguf_offload
