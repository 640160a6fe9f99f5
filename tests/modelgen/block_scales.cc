#include "tests/modelgen/block_scales.h"

#include <algorithm>
#include <cmath>

namespace gguf_offload {
namespace {

using quant::TensorType;

// Root mean squares of the grids' entries, each entry equally likely, and of the tables of 16
// values.
constexpr double kGridIq2Xxs = 23.118;
constexpr double kGridIq2Xs = 24.217;
constexpr double kGridIq2S = 24.430;
constexpr double kGridIq3Xxs = 30.849;
constexpr double kGridIq3S = 7.594;
constexpr double kGridIq1 = 0.7809;  // with the offset of 1/8
constexpr double kTableIq4 = 67.439;
constexpr double kTableE2m1 = 2.926;

// Root mean square of the odd numbers 1, 3, ... 2 * levels - 1.
double Odd(double levels) { return std::sqrt((4 * levels * levels - 1) / 3); }

// Root mean square of the whole numbers from `low` to 2 * `low` - 1.
double UpperHalf(double low) { return std::hypot(1.5 * low - 0.5, EvenDeviation(low)); }

// UE4M3 without a sign: four exponent bits with bias 7, three mantissa bits.
double FromUe4m3(int code) {
  const int exponent = code >> 3;
  const double mantissa = (code & 7) / 8.0;
  return exponent == 0 ? std::ldexp(mantissa, -6) : std::ldexp(1 + mantissa, exponent - 7);
}

}  // namespace

double EvenDeviation(double levels) { return std::sqrt((levels * levels - 1) / 12); }

double UnitDeviation(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0:
      return std::hypot(EvenDeviation(16), 0.5);
    case TensorType::kQ4_1:
      return EvenDeviation(16);
    case TensorType::kQ5_0:
      return std::hypot(EvenDeviation(32), 0.5);
    case TensorType::kQ5_1:
      return EvenDeviation(32);
    case TensorType::kQ8_0:
      return EvenDeviation(256);
    case TensorType::kQ2_K:
      return UpperHalf(8) * EvenDeviation(4);
    case TensorType::kQ3_K:
      return EvenDeviation(64) * EvenDeviation(8);
    case TensorType::kQ4_K:
      return UpperHalf(32) * EvenDeviation(16);
    case TensorType::kQ5_K:
      return UpperHalf(32) * EvenDeviation(32);
    case TensorType::kQ6_K:
      return EvenDeviation(256) * EvenDeviation(64);
    case TensorType::kTQ1_0:
      return EvenDeviation(3);
    case TensorType::kTQ2_0:
    case TensorType::kQ2_0:
      return std::sqrt(0.5);
    case TensorType::kQ1_0:
      return 1;
    case TensorType::kIQ2_XXS:
      return Odd(16) / 8 * kGridIq2Xxs;
    case TensorType::kIQ2_XS:
      return Odd(16) / 8 * kGridIq2Xs;
    case TensorType::kIQ2_S:
      return Odd(16) / 8 * kGridIq2S;
    case TensorType::kIQ3_XXS:
      return Odd(16) / 4 * kGridIq3Xxs;
    case TensorType::kIQ3_S:
      return Odd(16) * kGridIq3S;
    case TensorType::kIQ1_S:
    case TensorType::kIQ1_M:
      return Odd(8) * kGridIq1;
    case TensorType::kIQ4_NL:
      return kTableIq4;
    case TensorType::kIQ4_XS:
      return EvenDeviation(64) * kTableIq4;
    default:
      return 0;
  }
}

double CentreOfCodes(TensorType type) {
  switch (type) {
    case TensorType::kQ2_K:
      return 1.5;
    case TensorType::kQ4_1:
    case TensorType::kQ4_K:
      return 7.5;
    case TensorType::kQ5_1:
    case TensorType::kQ5_K:
      return 15.5;
    default:
      return 0;
  }
}

CoarseScale ChooseCoarseScale(TensorType type, double deviation) {
  const double scale = deviation / kTableE2m1;
  const bool microscaled = type == TensorType::kMXFP4;
  const auto value = [&](int code) {
    return microscaled ? std::ldexp(1.0, code - 127) : FromUe4m3(code);
  };
  int code = microscaled ? 1 : 0;
  const int largest = microscaled ? 253 : 0x7c;
  while (code < largest && value(code + 1) <= scale) ++code;
  const double low = value(code) * value(code);
  const double high = value(code + 1) * value(code + 1);
  const double chance = std::clamp((scale * scale - low) / (high - low), 0.0, 255.0 / 256);
  return CoarseScale{static_cast<uint8_t>(code), static_cast<uint8_t>(chance * 256)};
}

}  // namespace gguf_offload
