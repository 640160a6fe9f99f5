#include "tests/modelgen/quantize/offset_formats.h"

#include <cmath>
#include <cstring>

#include "tests/modelgen/quantize/scale_search.h"

namespace gguf_offload {
namespace {

constexpr int kSuperBlock = 256;

// A straight line through codes: value = scale * code - minimum, neither of them negative.
struct Line {
  float scale = 0;
  float minimum = 0;
};

// Sums over a group's codes and values, from which a line is fitted.
struct GroupSums {
  double codes = 0, squares = 0, values = 0, products = 0;
};

int NearestCode(float value, const Line& line, float inverse, int most) {
  return IntegerLevels{0, most}.Nearest((value + line.minimum) * inverse);
}

// What to multiply with instead of dividing by the scale; 0 where that cannot be.
float InverseOf(float scale) {
  const float inverse = scale > 0 ? 1 / scale : 0;
  return std::isfinite(inverse) ? inverse : 0;
}

GroupSums SumCodes(const float* x, int n, const Line& line, int most) {
  const float inverse = InverseOf(line.scale);
  // Whole numbers below 2^24 and 32 products of floats: float sums are exact enough to choose by.
  float codes = 0, squares = 0, values = 0, products = 0;
  for (int i = 0; i < n; ++i) {
    const auto code = static_cast<float>(NearestCode(x[i], line, inverse, most));
    codes += code;
    squares += code * code;
    values += x[i];
    products += x[i] * code;
  }
  return {codes, squares, values, products};
}

// The line with the least squared error for these codes.
Line FitLine(const GroupSums& sums, int n) {
  const double determinant = n * sums.squares - sums.codes * sums.codes;
  double scale = 0;
  double minimum = -sums.values / n;
  if (determinant > 0) {
    scale = (n * sums.products - sums.codes * sums.values) / determinant;
    minimum = (scale * sums.codes - sums.values) / n;
  }
  if (minimum < 0) {
    minimum = 0;
    scale = sums.squares > 0 ? sums.products / sums.squares : 0;
  }
  return {static_cast<float>(std::max(scale, 0.0)), static_cast<float>(minimum)};
}

double ErrorOfLine(const float* x, int n, const Line& line, int most) {
  const float inverse = InverseOf(line.scale);
  double error = 0;
  for (int i = 0; i < n; ++i) {
    const auto code = static_cast<float>(NearestCode(x[i], line, inverse, most));
    const double difference = x[i] - (line.scale * code - line.minimum);
    error += difference * difference;
  }
  return error;
}

struct FittedLine {
  Line line;
  FittedScale scale;  // with how much they matter, see FittedScale
  FittedScale minimum;
};

// Tries several widths of the range of codes that the values take up, and fits a line to each.
FittedLine SearchLine(const float* x, int n, int most, const std::vector<float>& reaches) {
  float low = 0;  // a minimum cannot be negative: the line goes through zero or below
  float high = x[0];
  for (int i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  Line best{std::max(0.0f, (high - low) / static_cast<float>(most)), -low};
  double best_error = ErrorOfLine(x, n, best, most);
  for (const float reach : reaches) {
    Line line{(high - low) / reach, -low};
    if (!(line.scale > 0)) continue;
    for (int round = 0; round < 2; ++round) {
      line = FitLine(SumCodes(x, n, line, most), n);
      const double error = ErrorOfLine(x, n, line, most);
      if (error < best_error) {
        best_error = error;
        best = line;
      }
    }
  }
  const GroupSums sums = SumCodes(x, n, best, most);
  return {best, {best.scale, sums.squares}, {best.minimum, static_cast<double>(n)}};
}

// What a format allows.
struct LineRules {
  int most_code;
  int most_multiple;           // of the units for scales and minimums
  std::vector<float> reaches;  // see SearchLine
  std::vector<float> counts;   // see CommonUnits
};

template <int kGroups>
struct LineBlock {
  float unit = 0;          // d
  float minimum_unit = 0;  // dmin
  int scales[kGroups] = {};
  int minimums[kGroups] = {};
  int codes[kSuperBlock] = {};
  double error = HUGE_VAL;
};

template <int kGroups>
class LineEncoder {
 public:
  LineEncoder(const LineRules& rules, const float* x) : rules_(rules), x_(x) {}

  LineBlock<kGroups> Encode();

 private:
  static constexpr int kGroup = kSuperBlock / kGroups;

  void KeepBetter(float unit, float minimum_unit);
  void ChooseGroup(int g, LineBlock<kGroups>* block) const;
  void FitUnits(float* unit, float* minimum_unit) const;

  const LineRules& rules_;
  const float* x_;  // (256)
  FittedLine lines_[kGroups];
  LineBlock<kGroups> best_;
};

// The best of a few scales and minimums around the wanted ones. Once the scale is rounded another
// minimum is best: that of a line with this slope.
template <int kGroups>
void LineEncoder<kGroups>::ChooseGroup(int g, LineBlock<kGroups>* block) const {
  const float* group = x_ + g * kGroup;
  const int most = rules_.most_multiple;
  const auto floor_multiple = [most](float wanted, float unit) {
    return unit > 0 ? static_cast<int>(std::clamp(wanted / unit, 0.0f, static_cast<float>(most)))
                    : 0;
  };
  const Line& wanted = lines_[g].line;
  const int scale_floor = floor_multiple(wanted.scale, block->unit);
  double best = HUGE_VAL;
  for (int scale = scale_floor; scale <= std::min(scale_floor + 1, most); ++scale) {
    Line line{block->unit * static_cast<float>(scale), wanted.minimum};
    const GroupSums sums = SumCodes(group, kGroup, line, rules_.most_code);
    const auto shifted =
        static_cast<float>(std::max(0.0, (line.scale * sums.codes - sums.values) / kGroup));
    const int minimum_floor = floor_multiple(shifted, block->minimum_unit);
    for (int minimum = minimum_floor; minimum <= std::min(minimum_floor + 1, most); ++minimum) {
      line.minimum = block->minimum_unit * static_cast<float>(minimum);
      const double error = ErrorOfLine(group, kGroup, line, rules_.most_code);
      if (error < best) {
        best = error;
        block->scales[g] = scale;
        block->minimums[g] = minimum;
      }
    }
  }
  const Line chosen{block->unit * static_cast<float>(block->scales[g]),
                    block->minimum_unit * static_cast<float>(block->minimums[g])};
  const float inverse = InverseOf(chosen.scale);
  for (int i = 0; i < kGroup; ++i) {
    block->codes[g * kGroup + i] = NearestCode(group[i], chosen, inverse, rules_.most_code);
  }
  block->error += best;
}

template <int kGroups>
void LineEncoder<kGroups>::KeepBetter(float unit, float minimum_unit) {
  LineBlock<kGroups> block;
  block.unit = unit;
  block.minimum_unit = minimum_unit;
  block.error = 0;
  for (int g = 0; g < kGroups; ++g) ChooseGroup(g, &block);
  if (block.error < best_.error) best_ = block;
}

// Both units by least squares for the multiples and codes of best_.
template <int kGroups>
void LineEncoder<kGroups>::FitUnits(float* unit, float* minimum_unit) const {
  double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
  for (int i = 0; i < kSuperBlock; ++i) {
    const int g = i / kGroup;
    const double a = static_cast<double>(best_.scales[g]) * best_.codes[i];
    const double b = -best_.minimums[g];
    aa += a * a;
    ab += a * b;
    bb += b * b;
    xa += x_[i] * a;
    xb += x_[i] * b;
  }
  *unit = best_.unit;
  *minimum_unit = best_.minimum_unit;
  const double determinant = aa * bb - ab * ab;
  if (determinant > 1e-9 * aa * bb) {
    *unit = static_cast<float>((xa * bb - xb * ab) / determinant);
    *minimum_unit = static_cast<float>((xb * aa - xa * ab) / determinant);
  } else if (bb == 0 && aa > 0) {
    *unit = static_cast<float>(xa / aa);
  } else if (aa == 0 && bb > 0) {
    *minimum_unit = static_cast<float>(xb / bb);
  }
  *unit = std::max(*unit, 0.0f);
  *minimum_unit = std::max(*minimum_unit, 0.0f);
}

template <int kGroups>
LineBlock<kGroups> LineEncoder<kGroups>::Encode() {
  FittedScale scales[kGroups];
  FittedScale minimums[kGroups];
  float largest_scale = 0;
  float largest_minimum = 0;
  for (int g = 0; g < kGroups; ++g) {
    lines_[g] = SearchLine(x_ + g * kGroup, kGroup, rules_.most_code, rules_.reaches);
    scales[g] = lines_[g].scale;
    minimums[g] = lines_[g].minimum;
    largest_scale = std::max(largest_scale, scales[g].scale);
    largest_minimum = std::max(largest_minimum, minimums[g].scale);
  }
  std::array<float, 2> units{};
  std::array<float, 2> minimum_units{};
  if (largest_scale > 0) {
    units = CommonUnits<2>(scales, kGroups, largest_scale, rules_.counts, 0, rules_.most_multiple);
  }
  if (largest_minimum > 0) {
    minimum_units =
        CommonUnits<2>(minimums, kGroups, largest_minimum, rules_.counts, 0, rules_.most_multiple);
  }
  for (const float unit : units) {
    for (const float minimum_unit : minimum_units) {
      KeepBetter(RoundToHalf(unit), RoundToHalf(minimum_unit));
    }
  }
  for (int round = 0; round < 2; ++round) {
    float unit = 0;
    float minimum_unit = 0;
    FitUnits(&unit, &minimum_unit);
    KeepBetter(RoundToHalf(unit), RoundToHalf(minimum_unit));
  }
  // What half precision can hold is coarse near zero.
  for (const float unit : HalvesAround(best_.unit)) KeepBetter(unit, best_.minimum_unit);
  for (const float unit : HalvesAround(best_.minimum_unit)) KeepBetter(best_.unit, unit);
  return best_;
}

std::vector<float> Range(float from, float to, float step) {
  std::vector<float> values;
  for (float value = from; value <= to; value += step) values.push_back(value);
  return values;
}

void PutHalf(float value, uint8_t* out) {
  const uint16_t half = ToHalf(value);
  std::memcpy(out, &half, sizeof half);
}

// The first 16 bytes of Q4_K and Q5_K: units, then scales and minimums of six bits.
void PutSixBitScales(const LineBlock<8>& lines, uint8_t* block) {
  PutHalf(lines.unit, block);
  PutHalf(lines.minimum_unit, block + 2);
  uint8_t* packed = block + 4;
  for (int g = 0; g < 4; ++g) {
    const int high_scale = lines.scales[g + 4], high_minimum = lines.minimums[g + 4];
    packed[g] = static_cast<uint8_t>(lines.scales[g] | (high_scale >> 4) << 6);
    packed[4 + g] = static_cast<uint8_t>(lines.minimums[g] | (high_minimum >> 4) << 6);
    packed[8 + g] = static_cast<uint8_t>((high_scale & 15) | (high_minimum & 15) << 4);
  }
}

// The low four bits of the codes: runs 2k and 2k + 1 of 32 share 32 bytes.
void PutRunsOfNibbles(const int* codes, uint8_t* out) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int j = 0; j < 32; ++j) {
      const int low = codes[64 * pair + j] & 15, high = codes[64 * pair + 32 + j] & 15;
      out[32 * pair + j] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

}  // namespace

void EncodeQ4_K(const float* x, uint8_t* block) {
  static const LineRules rules{15, 63, Range(9, 16.5f, 0.5f), Range(28, 63, 1)};
  const LineBlock<8> lines = LineEncoder<8>(rules, x).Encode();
  PutSixBitScales(lines, block);
  PutRunsOfNibbles(lines.codes, block + 16);
}

void EncodeQ5_K(const float* x, uint8_t* block) {
  static const LineRules rules{31, 63, Range(22, 32.5f, 0.5f), Range(28, 63, 1)};
  const LineBlock<8> lines = LineEncoder<8>(rules, x).Encode();
  PutSixBitScales(lines, block);
  uint8_t* fifth = block + 16;  // bit r of byte j: of code j of run r
  std::memset(fifth, 0, 32);
  for (int i = 0; i < kSuperBlock; ++i) {
    fifth[i % 32] |= static_cast<uint8_t>((lines.codes[i] >> 4) << (i / 32));
  }
  PutRunsOfNibbles(lines.codes, block + 48);
}

void EncodeQ2_K(const float* x, uint8_t* block) {
  static const LineRules rules{3, 15, Range(1.5f, 4.5f, 0.125f), Range(6, 15, 1)};
  const LineBlock<16> lines = LineEncoder<16>(rules, x).Encode();
  std::memset(block, 0, 80);
  for (int g = 0; g < 16; ++g) {
    block[g] = static_cast<uint8_t>(lines.scales[g] | lines.minimums[g] << 4);
  }
  for (int i = 0; i < kSuperBlock; ++i) {
    const int run = i / 32;
    block[16 + 32 * (run / 4) + i % 32] |= static_cast<uint8_t>(lines.codes[i] << (2 * (run % 4)));
  }
  PutHalf(lines.unit, block + 80);
  PutHalf(lines.minimum_unit, block + 82);
}

}  // namespace gguf_offload
