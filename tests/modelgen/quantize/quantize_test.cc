#include "tests/modelgen/quantize/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/golden_blocks.h"
#include "kernels/quant/grid_constants.h"
#include "kernels/quant/numbers.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

const TensorType kQuantized[] = {TensorType::kQ8_0, TensorType::kQ6_K,   TensorType::kQ5_K,
                                 TensorType::kQ4_K, TensorType::kQ3_K,   TensorType::kQ2_K,
                                 TensorType::kQ4_0, TensorType::kIQ4_NL, TensorType::kIQ4_XS,
                                 TensorType::kMXFP4};

std::string NameOf(TensorType type) { return std::string(quant::FormatOf(type).name); }

std::vector<uint8_t> Encoded(TensorType type, const std::vector<float>& values) {
  std::vector<uint8_t> blocks(quant::RowBytes(quant::FormatOf(type), values.size()));
  Quantize(type, values.data(), values.size(), blocks.data());
  return blocks;
}

// What is left of `values` by way of `type`, by the decoders that the golden data vouch for.
std::vector<float> RoundTrip(TensorType type, const std::vector<float>& values) {
  const std::vector<uint8_t> blocks = Encoded(type, values);
  std::vector<float> out(values.size());
  quant::Dequantize(type, blocks.data(), values.size(), out.data());
  return out;
}

double RootMeanSquare(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

std::vector<float> Gaussian(size_t count, uint32_t seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

float LargestMagnitudeOf(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

// Root mean square errors on values of unit deviation. For comparison: no code of b bits a value
// can do better than 2^-b (Shannon), and rounding to steps of s errs by s / sqrt(12), where the
// largest of 32 values, 2.2 on average, would take 127 steps of Q8_0 (0.0050) and 7.5 of Q4_0
// (0.085).
TEST(QuantizeTest, ErrorOnGaussianValues) {
  const double limits[] = {0.0048, 0.0168, 0.0347, 0.0712, 0.147,
                           0.265,  0.083,  0.075,  0.0755, 0.114};
  const std::vector<float> values = Gaussian(1 << 15, 1);
  for (size_t i = 0; i < std::size(kQuantized); ++i) {
    const quant::Format& format = quant::FormatOf(kQuantized[i]);
    const double error = RootMeanSquare(values, RoundTrip(kQuantized[i], values));
    const double bits = 8.0 * format.block_bytes / format.block_elements;
    EXPECT_LE(error, limits[i]) << format.name;
    EXPECT_GE(error, std::exp2(-bits)) << format.name;
  }
}

// The least squared error of 32 values with any half-precision scale of either sign whose largest
// level is near the largest value, found by trying them all.
double LeastError(const std::vector<float>& x, const std::vector<int>& levels, double farthest,
                  double nearest) {
  const double largest = LargestMagnitudeOf(x);
  double least = HUGE_VAL;
  for (uint32_t half = 1; half < 0x7c00; ++half) {
    const double magnitude = quant::HalfToFloat(static_cast<uint16_t>(half));
    if (magnitude < largest / farthest || magnitude > largest / nearest) continue;
    for (const double scale : {magnitude, -magnitude}) {
      double error = 0;
      for (const float value : x) {
        const double wanted = value / scale;
        double best = HUGE_VAL;
        for (const int level : levels) best = std::min(best, std::fabs(wanted - level));
        error += best * best * scale * scale;
        if (error >= least) break;
      }
      least = std::min(least, error);
    }
  }
  return least;
}

void CheckAgainstAllScales(TensorType type, const std::vector<int>& levels, double farthest,
                           double nearest) {
  double ours = 0;
  double least = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const std::vector<float> x = Gaussian(32, 100 + seed, 0.02f);
    const double error = std::pow(RootMeanSquare(x, RoundTrip(type, x)), 2) * 32;
    const double best = LeastError(x, levels, farthest, nearest);
    EXPECT_LE(error, 1.1 * best) << NameOf(type) << " seed " << seed;
    ours += error;
    least += best;
  }
  EXPECT_GE(ours, 0.999 * least) << NameOf(type);  // or the search above is wrong
  EXPECT_LE(ours, 1.02 * least) << NameOf(type);
}

std::vector<int> Range(int from, int to) {
  std::vector<int> levels;
  for (int level = from; level <= to; ++level) levels.push_back(level);
  return levels;
}

TEST(QuantizeTest, SingleScalesAreNearlyTheBestThereAre) {
  CheckAgainstAllScales(TensorType::kQ4_0, Range(-8, 7), 11, 3);
  CheckAgainstAllScales(TensorType::kIQ4_NL,
                        {quant::kSignedValuesIq4Nl.begin(), quant::kSignedValuesIq4Nl.end()}, 170,
                        50);
}

TEST(QuantizeTest, ScaleOfQ8_0IsNearlyTheBestThereIs) {
  CheckAgainstAllScales(TensorType::kQ8_0, Range(-127, 127), 128.5, 100);
}

TEST(QuantizeTest, PowerOfTwoIsTheBestThereIs) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> x = Gaussian(32, seed, 3);
    double least = HUGE_VAL;
    for (int exponent = -20; exponent < 10; ++exponent) {
      double error = 0;
      for (const float value : x) {
        double best = HUGE_VAL;
        for (const int level : quant::kSignedValuesFp4) {
          best = std::min(best, std::fabs(value - std::ldexp(level, exponent)));
        }
        error += best * best;
      }
      least = std::min(least, error);
    }
    const double ours = std::pow(RootMeanSquare(x, RoundTrip(TensorType::kMXFP4, x)), 2) * 32;
    EXPECT_NEAR(ours, least, 1e-5 * least);
  }
}

// What the plainest encoder never exceeds, for blocks whose largest magnitude is `largest`: half a
// step, where the steps are as wide as the largest value needs, rounded up to the next scale that
// the format has, plus half a step of the minimums where there are such.
double HalfStep(TensorType type, double largest) {
  switch (type) {
    case TensorType::kQ8_0:
      return largest / 127 / 2;
    case TensorType::kQ6_K:
      return (largest / 31 + largest / 31 / 127) / 2;
    case TensorType::kQ5_K:
      return (2 * largest / 31 * (1 + 1.0 / 63) + largest / 63) / 2;
    case TensorType::kQ4_K:
      return (2 * largest / 15 * (1 + 1.0 / 63) + largest / 63) / 2;
    case TensorType::kQ3_K:
      return (largest / 3 + largest / 3 / 31) / 2;
    case TensorType::kQ2_K:
      return (2 * largest / 3 * (1 + 1.0 / 15) + largest / 15) / 2;
    case TensorType::kQ4_0:
      return largest / 7 / 2;
    case TensorType::kIQ4_NL:
      return largest / 113 * 12;  // half the gap between 89 and 113
    case TensorType::kIQ4_XS:
      return (largest / 113 + largest / 113 / 31) * 12;
    default:
      return largest / 12 * 2 *
             2;  // MXFP4: half the gap between 8 and 12, scales up to twice as wide
  }
}

// The error of scales that are no half-precision numbers: 2^-11 of the values, or with tiny ones
// what the smallest scale can mean.
double HalfPrecisionSlack(TensorType type, double largest) {
  if (type == TensorType::kMXFP4) return 0x1p-129;  // half of the smallest scale
  return largest * 0x1p-10 + std::min(largest, 127 * 0x1p-24);
}

void CheckBound(const std::string& what, const std::vector<float>& values) {
  for (const TensorType type : kQuantized) {
    const std::vector<float> out = RoundTrip(type, values);
    const size_t block = quant::FormatOf(type).block_elements;
    for (size_t begin = 0; begin < values.size(); begin += block) {
      const std::vector<float> x(values.begin() + begin, values.begin() + begin + block);
      const std::vector<float> y(out.begin() + begin, out.begin() + begin + block);
      const double largest = LargestMagnitudeOf(x);
      const double limit = HalfStep(type, largest) + HalfPrecisionSlack(type, largest);
      EXPECT_LE(RootMeanSquare(x, y), limit) << NameOf(type) << ", " << what;
    }
  }
}

TEST(QuantizeTest, ErrorIsWithinHalfAStep) {
  CheckBound("Gaussian", Gaussian(4096, 2));
  CheckBound("tiny", Gaussian(1024, 3, 1e-6f));
  CheckBound("below half precision", Gaussian(1024, 4, 1e-9f));
  CheckBound("below float32's normal numbers", Gaussian(512, 5, 1e-39f));
  std::vector<float> huge = Gaussian(1024, 6, 12000);
  for (float& value : huge) value = std::clamp(value, -65504.0f, 65504.0f);
  CheckBound("huge", huge);
  for (const float value : {1.0f, -1.0f, 0.37f, -3e-5f, 65504.0f, -65504.0f}) {
    CheckBound("constant " + std::to_string(value), std::vector<float>(256, value));
  }
  for (const float outlier : {100.0f, -100.0f}) {
    std::vector<float> values = Gaussian(256, 7);
    values[77] = outlier;
    CheckBound("an outlier of " + std::to_string(outlier), values);
  }
  std::vector<float> uneven = Gaussian(256, 8);
  for (size_t i = 0; i < uneven.size(); ++i) uneven[i] *= std::exp2(-static_cast<int>(i / 16));
  CheckBound("groups of unlike size", uneven);
}

TEST(QuantizeTest, ZerosStayZeros) {
  const std::vector<float> zeros(512, 0.0f);
  for (const TensorType type : kQuantized) EXPECT_EQ(RoundTrip(type, zeros), zeros) << NameOf(type);
}

TEST(QuantizeTest, ConstantsAreAlmostExact) {
  for (const TensorType type : kQuantized) {
    if (type == TensorType::kMXFP4) continue;  // powers of two
    for (const float value : {0.37f, -0.37f}) {
      const std::vector<float> values(256, value);
      EXPECT_LE(RootMeanSquare(values, RoundTrip(type, values)), 0x1p-10 * 0.37) << NameOf(type);
    }
  }
}

// Golden blocks are random bytes, so they hold what the format can hold and not only what encoders
// make. Left out are code -128 of Q8_0 and negative units of the formats with minimums, which these
// encoders never write, and blocks with scales that are not finite.
TEST(QuantizeTest, DecodedBlocksComeBack) {
  for (const quant::GoldenBlocks& golden : quant::AllGoldenBlocks()) {
    const TensorType type = golden.type();
    if (std::find(std::begin(kQuantized), std::end(kQuantized), type) == std::end(kQuantized)) {
      continue;
    }
    const bool has_minimums =
        type == TensorType::kQ5_K || type == TensorType::kQ4_K || type == TensorType::kQ2_K;
    int checked = 0;
    for (size_t at = 0; at < golden.values.size(); at += golden.block_elements) {
      const std::vector<float> values(golden.values.begin() + at,
                                      golden.values.begin() + at + golden.block_elements);
      const uint8_t* block = golden.blocks.data() + at / golden.block_elements * golden.block_bytes;
      const float largest = LargestMagnitudeOf(values);
      if (FindUnquantizable(type, values.data(), values.size()) != values.size()) continue;
      if (type == TensorType::kQ8_0 && std::count(block + 2, block + 34, 0x80) > 0) continue;
      const int units = type == TensorType::kQ2_K ? 80 : 0;
      if (has_minimums && ((block[units + 1] | block[units + 3]) & 0x80) != 0) continue;
      ++checked;
      // A minimum that no group's codes show cannot be told, and must be found by fitting.
      const double limit = has_minimums ? 0.1 * HalfStep(type, largest) : 1e-6 * largest;
      EXPECT_LE(RootMeanSquare(values, RoundTrip(type, values)), limit)
          << golden.name << " block " << at / golden.block_elements;
    }
    EXPECT_GT(checked, 5) << golden.name;
  }
}

TEST(QuantizeTest, QuantizingAgainLosesAlmostNothing) {
  const std::vector<float> values = Gaussian(8192, 9, 0.05f);
  for (const TensorType type : kQuantized) {
    const std::vector<float> once = RoundTrip(type, values);
    const std::vector<float> twice = RoundTrip(type, once);
    EXPECT_LE(RootMeanSquare(once, twice), 0.1 * RootMeanSquare(values, once)) << NameOf(type);
  }
}

TEST(QuantizeTest, BlocksDoNotDependOnEachOther) {
  const std::vector<float> values = Gaussian(1024, 10);
  for (const TensorType type : kQuantized) {
    const std::vector<uint8_t> whole = Encoded(type, values);
    std::vector<uint8_t> pieces;
    for (size_t at = 0; at < values.size(); at += 256) {
      const std::vector<uint8_t> piece =
          Encoded(type, {values.begin() + at, values.begin() + at + 256});
      pieces.insert(pieces.end(), piece.begin(), piece.end());
    }
    EXPECT_EQ(whole, pieces) << NameOf(type);
  }
}

TEST(QuantizeTest, FloatsAreRoundedToTheNearest) {
  std::vector<float> values = Gaussian(5000, 11);
  for (const float value : {0.0f, -0.0f, 65504.0f, -65504.0f, 6e-8f, 2e-8f, 1e-5f, 1.0f}) {
    values.push_back(value);
  }
  EXPECT_EQ(RoundTrip(TensorType::kF32, values), values);
  const std::vector<float> halves = RoundTrip(TensorType::kF16, values);
  const std::vector<float> brains = RoundTrip(TensorType::kBF16, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const float magnitude = std::fabs(values[i]);
    EXPECT_LE(std::fabs(halves[i] - values[i]), std::max(magnitude * 0x1p-11f, 0x1p-25f));
    EXPECT_LE(std::fabs(brains[i] - values[i]), magnitude * 0x1p-8f);
  }
  EXPECT_EQ(RoundTrip(TensorType::kF16, halves), halves);
  EXPECT_EQ(RoundTrip(TensorType::kBF16, brains), brains);
}

TEST(QuantizeTest, WhatCannotBeHeldIsFound) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto find = [](TensorType type, float value) {
    const float values[] = {1, -2, value, 3};
    return FindUnquantizable(type, values, 4);
  };
  for (const TensorType type : kQuantized) {
    for (const float value : {std::nanf(""), kInfinity, -kInfinity, 3e38f}) {
      EXPECT_EQ(find(type, value), 2u) << NameOf(type);
    }
    EXPECT_EQ(find(type, -65504.0f), 4u) << NameOf(type);
  }
  EXPECT_EQ(find(TensorType::kF16, 65505.0f), 2u);
  EXPECT_EQ(find(TensorType::kF16, 65504.0f), 4u);
  EXPECT_EQ(find(TensorType::kF32, 3.4e38f), 4u);
  EXPECT_EQ(find(TensorType::kF32, std::nanf("")), 2u);
  EXPECT_EQ(find(TensorType::kBF16, 3.4e38f), 2u);
  EXPECT_EQ(find(TensorType::kMXFP4, 1e30f), 4u);
  EXPECT_FALSE(CanQuantize(TensorType::kIQ1_S));
  EXPECT_FALSE(CanQuantize(TensorType::kI32));
  for (const TensorType type : kQuantized) EXPECT_TRUE(CanQuantize(type));
}

}  // namespace
}  // namespace gguf_offload
