// What the codes of a format stand for before the scale is applied, and which is nearest.
#ifndef TESTS_MODELGEN_QUANTIZE_LEVELS_H_
#define TESTS_MODELGEN_QUANTIZE_LEVELS_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/quant/grid_constants.h"
#include "kernels/quant/numbers.h"
#include "tests/modelgen/half.h"

namespace gguf_offload {

// The whole number nearest to `value`, |value| < 2^22, of two the even one.
inline int NearestInteger(float value) {
  constexpr float kShift = 0x1.8p23f;  // leaves no bits for fractions
  return static_cast<int>(std::bit_cast<uint32_t>(value + kShift) & 0x7fffff) - 0x400000;
}

// `value` as a half-precision number holds it.
inline float RoundToHalf(float value) { return quant::HalfToFloat(ToHalf(value)); }

// All whole numbers from `low` to `high`; a code is the number itself.
struct IntegerLevels {
  int low;
  int high;

  // `value` may be anything but NaN.
  int Nearest(float value) const {
    return NearestInteger(std::clamp(value, static_cast<float>(low), static_cast<float>(high)));
  }
  static float Level(int code) { return static_cast<float>(code); }
};

// Sixteen numbers in ascending order; a code is the index.
class TableLevels {
 public:
  explicit TableLevels(const std::array<int, 16>& table) {
    for (size_t i = 0; i < table.size(); ++i) levels_[i] = static_cast<float>(table[i]);
    for (size_t i = 1; i < table.size(); ++i) borders_[i - 1] = (levels_[i - 1] + levels_[i]) / 2;
  }

  int Nearest(float value) const {
    int code = value > borders_[7] ? 8 : 0;
    code += value > borders_[code + 3] ? 4 : 0;
    code += value > borders_[code + 1] ? 2 : 0;
    code += value > borders_[code] ? 1 : 0;
    return code;
  }
  float Level(int code) const { return levels_[code]; }

 private:
  std::array<float, 16> levels_;
  std::array<float, 15> borders_;
};

inline const TableLevels& Iq4NlLevels() {
  static const TableLevels levels(quant::kSignedValuesIq4Nl);
  return levels;
}

// The magnitudes of E2M1 numbers, twice; the sign is a bit of its own.
struct Fp4Levels {
  // Codes 8 to 15 are negative.
  static int Nearest(float value) {
    const float magnitude = value < 0 ? -value : value;
    int code = 0;
    for (int i = 1; i < 8; ++i) {
      const float border =
          0.5f * static_cast<float>(quant::kSignedValuesFp4[i - 1] + quant::kSignedValuesFp4[i]);
      code = magnitude > border ? i : code;
    }
    return value < 0 && code > 0 ? code + 8 : code;
  }
  static float Level(int code) { return static_cast<float>(quant::kSignedValuesFp4[code]); }
};

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_LEVELS_H_
