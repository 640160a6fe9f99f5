#include "kernels/ops/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

constexpr double kPi = 3.14159265358979323846;

// YaRN as section 3 of the paper writes it ("NTK-by-parts"): a pair of wavelength w = 2 pi / theta
// turns r = L / w times within the original context L; gamma(r) is 0 below beta_slow turns, 1 above
// beta_fast; theta' = (1 - gamma) theta / s + gamma theta. ggml's ramp is linear in the pair's
// index between the rounded indices where r = beta_fast and r = beta_slow (as in the paper's own
// code), so the reference is exact outside of the ramp and is bounded by the neighbours' values
// within it.
double PaperTurns(double theta, double context) { return context * theta / (2 * kPi); }

TEST(RopeFrequenciesTest, PlainAndLinear) {
  RopeParameters p = {.rope_dims = 64, .freq_base = 500000.0f};
  const RopeFrequencies plain(p);
  p.scaling = RopeScaling::kLinear;
  p.factor = 4.0f;
  p.attn_factor = 1.25f;
  const RopeFrequencies linear(p);
  ASSERT_EQ(plain.pairs(), 32);
  EXPECT_EQ(plain.magnitude(), 1.0f);
  EXPECT_EQ(linear.magnitude(), 1.25f);
  for (int pair = 0; pair < 32; ++pair) {
    const double theta = std::exp(-std::log(500000.0) * pair / 32);
    EXPECT_NEAR(plain.radians(pair) / theta, 1.0, 1e-12);
    EXPECT_NEAR(linear.radians(pair) / theta, 0.25, 1e-12);
  }
}

TEST(RopeFrequenciesTest, FactorsDivide) {
  const std::vector<float> factors = {1.0f, 2.0f, 8.0f};
  const RopeFrequencies frequencies(
      {.rope_dims = 6, .freq_base = 1000.0f, .freq_factors = factors.data()});
  EXPECT_NEAR(frequencies.radians(0), 1.0, 1e-12);
  EXPECT_NEAR(frequencies.radians(1), 0.1 / 2, 1e-12);
  EXPECT_NEAR(frequencies.radians(2), 0.01 / 8, 1e-12);
}

TEST(RopeFrequenciesTest, YarnKeepsFastPairsAndInterpolatesSlowOnes) {
  RopeParameters p = {.rope_dims = 128, .freq_base = 10000.0f};
  p.scaling = RopeScaling::kYarn;
  p.factor = 16.0f;
  p.original_context = 4096;
  const RopeFrequencies frequencies(p);
  EXPECT_NEAR(frequencies.magnitude(), 1.0 + 0.1 * std::log(16.0), 1e-6);
  double previous_ratio = 1.0;
  int kept = 0, interpolated = 0;
  for (int pair = 0; pair < 64; ++pair) {
    const double theta = std::pow(10000.0, -2.0 * pair / 128);
    const double ratio = frequencies.radians(pair) / theta;
    // The borders are rounded outwards to whole pairs: look one pair further.
    const double step = std::pow(10000.0, 2.0 / 128);
    if (PaperTurns(theta, 4096) / step > 32.0) {
      EXPECT_NEAR(ratio, 1.0, 1e-12) << pair;
      ++kept;
    } else if (PaperTurns(theta, 4096) * step < 1.0) {
      EXPECT_NEAR(ratio, 1.0 / 16, 1e-12) << pair;
      ++interpolated;
    } else {
      EXPECT_LE(ratio, previous_ratio) << pair;
      EXPECT_GE(ratio, 1.0 / 16 - 1e-12) << pair;
    }
    previous_ratio = ratio;
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(interpolated, 10);
  // The ramp itself: with this geometry it goes from pair 20 (20.9 rounded down) to pair 46 (45.03
  // rounded up); the borders follow from d ln(L / (2 pi beta)) / (2 ln base).
  for (int pair : {20, 21, 33, 45, 46}) {
    const double gamma = 1.0 - (pair - 20) / 26.0;
    const double theta = std::pow(10000.0, -2.0 * pair / 128);
    EXPECT_NEAR(frequencies.radians(pair) / theta, (1 - gamma) / 16 + gamma, 1e-12) << pair;
  }
}

TEST(RopeFrequenciesTest, YarnWithoutExtrapolationIsLinear) {
  RopeParameters p = {.rope_dims = 32, .scaling = RopeScaling::kYarn, .factor = 8.0f};
  p.ext_factor = 0.0f;
  p.original_context = 2048;
  const RopeFrequencies yarn(p);
  p.scaling = RopeScaling::kLinear;
  const RopeFrequencies linear(p);
  EXPECT_EQ(yarn.magnitude(), 1.0f);
  for (int pair = 0; pair < 16; ++pair) EXPECT_EQ(yarn.radians(pair), linear.radians(pair));
}

TEST(RopeTest, TurnsPairsOfBothStyles) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int rope_dims : {2, 16, 44, 64, 128}) {
      const RopeParameters p = {.rope_dims = rope_dims, .freq_base = 1e6f, .attn_factor = 1.5f};
      const RopeFrequencies frequencies(p);
      const std::vector<int32_t> positions = {0, 1, 17, 4096, 131071, 1048575};
      const size_t n = positions.size(), heads = 3, head_stride = rope_dims + 6;
      const size_t row_stride = heads * head_stride + 5;
      RopeAngles angles;
      angles.Compute(frequencies, positions.data(), n, pool);
      for (RopeStyle style : {RopeStyle::kNormal, RopeStyle::kNeox}) {
        std::vector<float> before(n * row_stride);
        for (float& x : before) x = normal(random);
        std::vector<float> x = before;
        std::vector<double> expected(before.begin(), before.end());
        for (size_t row = 0; row < n; ++row) {
          for (size_t head = 0; head < heads; ++head) {
            const size_t at = row * row_stride + head * head_stride;
            for (int pair = 0; pair < rope_dims / 2; ++pair) {
              const int a = style == RopeStyle::kNormal ? 2 * pair : pair;
              const int b = style == RopeStyle::kNormal ? 2 * pair + 1 : pair + rope_dims / 2;
              const double angle = positions[row] * std::pow(1e6, -2.0 * pair / rope_dims);
              const auto turned =
                  std::complex<double>(before[at + a], before[at + b]) * std::polar(1.5, angle);
              expected[at + a] = turned.real();
              expected[at + b] = turned.imag();
            }
          }
        }
        Rope(x.data(), row_stride, head_stride, heads, angles, style, pool);
        for (size_t i = 0; i < x.size(); ++i) {
          if (expected[i] == static_cast<double>(before[i])) {
            ASSERT_EQ(x[i], before[i]);
          } else {
            ASSERT_NEAR(x[i], expected[i], 2e-6) << i;
          }
        }
      }
    }
  });
}

TEST(RopeTest, IsBitIdenticalInAnyBatchAndWithAnyThreads) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    const size_t n = 90, heads = 4, head_dim = 80, row = heads * head_dim;
    const RopeFrequencies frequencies({.rope_dims = 72});
    std::vector<int32_t> positions(n);
    for (size_t i = 0; i < n; ++i) positions[i] = static_cast<int32_t>(i * 37);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(n * row);
    for (float& value : x) value = normal(random);
    ThreadPool one(1), three(3);
    for (RopeStyle style : {RopeStyle::kNormal, RopeStyle::kNeox}) {
      std::vector<float> whole = x, threaded = x, rows = x;
      RopeAngles angles;
      angles.Compute(frequencies, positions.data(), n, one);
      Rope(whole.data(), row, head_dim, heads, angles, style, one);
      angles.Compute(frequencies, positions.data(), n, three);
      Rope(threaded.data(), row, head_dim, heads, angles, style, three);
      for (size_t i = 0; i < n; ++i) {
        angles.Compute(frequencies, &positions[i], 1, one);
        Rope(&rows[i * row], row, head_dim, heads, angles, style, one);
      }
      EXPECT_EQ(std::memcmp(whole.data(), threaded.data(), x.size() * sizeof(float)), 0);
      EXPECT_EQ(std::memcmp(whole.data(), rows.data(), x.size() * sizeof(float)), 0);
    }
  });
}

}  // namespace
}  // namespace gguf_offload
