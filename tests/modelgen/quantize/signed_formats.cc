#include "tests/modelgen/quantize/signed_formats.h"

#include <cmath>
#include <cstring>

#include "tests/modelgen/quantize/scale_search.h"

namespace gguf_offload {
namespace {

constexpr int kSuperBlock = 256;

void PutHalf(float value, uint8_t* out) {
  const uint16_t half = ToHalf(value);
  std::memcpy(out, &half, sizeof half);
}

// Code j in the low nibble of byte j, code 16 + j in the high one.
template <typename Code>
void PutNibbles(const Code* codes, int bias, uint8_t* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>((codes[j] + bias) | (codes[16 + j] + bias) << 4);
  }
}

// The half-precision scale with the least error for 32 values.
template <typename Levels>
float BestHalfScale(const Levels& levels, const std::vector<float>& reaches, const float* x) {
  const float fitted = FitScale(levels, reaches, x, 32).scale;
  float best = 0;
  double best_error = HUGE_VAL;
  for (const float scale : HalvesAround(fitted)) {
    const double error = ErrorAt(levels, x, 32, scale);
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

std::vector<float> TableReaches() {
  std::vector<float> reaches = BothSigns(85, 145, 5);
  for (const int level : quant::kSignedValuesIq4Nl) {
    if (std::abs(level) < 49) continue;
    reaches.push_back(static_cast<float>(level));
    reaches.push_back(static_cast<float>(-level));
  }
  return reaches;
}

// A block of groups whose scales are whole multiples of one half-precision number.
template <int kGroups>
struct ScaledGroups {
  static constexpr int kGroup = kSuperBlock / kGroups;
  float unit = 0;
  int multiples[kGroups] = {};
  int codes[kSuperBlock] = {};
  double error = HUGE_VAL;
};

// What a format allows.
template <typename Levels>
struct GroupRules {
  const Levels& levels;
  std::vector<float> reaches;      // see FitScale
  std::vector<float> unit_counts;  // see CommonUnits
  int low;                         // of the multiples
  int high;
};

// The best multiples and codes for `unit`.
template <int kGroups, typename Levels>
ScaledGroups<kGroups> ChooseMultiples(const GroupRules<Levels>& rules, const FittedScale* scales,
                                      const float* x, float unit) {
  constexpr int kGroup = kSuperBlock / kGroups;
  ScaledGroups<kGroups> out;
  out.unit = unit;
  out.error = 0;
  for (int g = 0; g < kGroups; ++g) {
    const float* group = x + g * kGroup;
    const float wanted = unit == 0 ? 0 : scales[g].scale / unit;
    const float lower = std::floor(
        std::clamp(wanted, static_cast<float>(rules.low), static_cast<float>(rules.high)));
    double best = HUGE_VAL;
    for (int k = 0; k < 2; ++k) {
      const int multiple = std::min(static_cast<int>(lower) + k, rules.high);
      const double error =
          ErrorAt(rules.levels, group, kGroup, unit * static_cast<float>(multiple));
      if (error < best) {
        best = error;
        out.multiples[g] = multiple;
      }
    }
    out.error += best;
    CodesAt(rules.levels, group, kGroup, unit * static_cast<float>(out.multiples[g]),
            out.codes + g * kGroup);
  }
  return out;
}

// The unit that fits the block's multiples and codes best.
template <int kGroups, typename Levels>
float FitUnit(const Levels& levels, const float* x, const ScaledGroups<kGroups>& block) {
  double products = 0;
  double squares = 0;
  for (int i = 0; i < kSuperBlock; ++i) {
    const double level = static_cast<double>(block.multiples[i / (kSuperBlock / kGroups)]) *
                         levels.Level(block.codes[i]);
    products += x[i] * level;
    squares += level * level;
  }
  return squares > 0 ? static_cast<float>(products / squares) : 0;
}

template <int kGroups, typename Levels>
ScaledGroups<kGroups> EncodeGroups(const GroupRules<Levels>& rules, const float* x) {
  constexpr int kGroup = kSuperBlock / kGroups;
  FittedScale scales[kGroups];
  float largest = 0;
  for (int g = 0; g < kGroups; ++g) {
    scales[g] = FitScale(rules.levels, rules.reaches, x + g * kGroup, kGroup);
    if (std::fabs(scales[g].scale) > std::fabs(largest)) largest = scales[g].scale;
  }
  ScaledGroups<kGroups> best;
  const auto keep_better = [&](float unit) {
    ScaledGroups<kGroups> block = ChooseMultiples<kGroups>(rules, scales, x, unit);
    if (block.error < best.error) best = block;
  };
  if (largest == 0) {
    keep_better(0);
    return best;
  }
  for (const float unit :
       CommonUnits<3>(scales, kGroups, largest, rules.unit_counts, rules.low, rules.high)) {
    keep_better(RoundToHalf(unit));
  }
  keep_better(RoundToHalf(FitUnit(rules.levels, x, best)));
  for (const float unit : HalvesAround(FitUnit(rules.levels, x, best))) keep_better(unit);
  return best;
}

// `from`, ..., `to` and the negatives of all, and -(to + 1): what the largest of signed multiples
// may be.
std::vector<float> LargestMultiples(int from, int to) {
  std::vector<float> counts = BothSigns(static_cast<float>(from), static_cast<float>(to), 1);
  counts.push_back(static_cast<float>(-(to + 1)));
  return counts;
}

}  // namespace

void EncodeQ8_0(const float* x, uint8_t* block) {
  static const std::vector<float> reaches = [] {
    std::vector<float> values;
    for (float reach = 127; reach >= 96; --reach) values.push_back(reach);
    return values;
  }();
  // -128 is left out: readers that multiply magnitudes could not hold it.
  const IntegerLevels levels{-127, 127};
  const float scale = BestHalfScale(levels, reaches, x);
  PutHalf(scale, block);
  CodesAt(levels, x, 32, scale, reinterpret_cast<int8_t*>(block + 2));
}

void EncodeQ4_0(const float* x, uint8_t* block) {
  static const std::vector<float> reaches = BothSigns(4, 9.5f, 0.25f);
  const IntegerLevels levels{-8, 7};
  const float scale = BestHalfScale(levels, reaches, x);
  int codes[32];
  PutHalf(scale, block);
  CodesAt(levels, x, 32, scale, codes);
  PutNibbles(codes, 8, block + 2);
}

void EncodeIq4Nl(const float* x, uint8_t* block) {
  static const std::vector<float> reaches = TableReaches();
  const float scale = BestHalfScale(Iq4NlLevels(), reaches, x);
  int codes[32];
  PutHalf(scale, block);
  CodesAt(Iq4NlLevels(), x, 32, scale, codes);
  PutNibbles(codes, 0, block + 2);
}

// The scale is 2^(e - 128) times an E2M1 number's double.
void EncodeMxfp4(const float* x, uint8_t* block) {
  int exponent = 0;
  // largest / 12 is below 2^exponent, so that nothing is cut off there.
  std::frexp(LargestOf(x, 32) / 12, &exponent);
  uint8_t best = 0;
  double best_error = HUGE_VAL;
  for (int e = exponent + 128; e > exponent + 125; --e) {
    const int clamped = std::clamp(e, 0, 254);
    const double error = ErrorAt(Fp4Levels(), x, 32, std::ldexp(1.0f, clamped - 128));
    if (error < best_error) {
      best_error = error;
      best = static_cast<uint8_t>(clamped);
    }
  }
  int codes[32];
  block[0] = best;
  CodesAt(Fp4Levels(), x, 32, std::ldexp(1.0f, best - 128), codes);
  PutNibbles(codes, 0, block + 1);
}

void EncodeQ6_K(const float* x, uint8_t* block) {
  const IntegerLevels levels{-32, 31};
  static const std::vector<float> reaches = BothSigns(20, 33, 1);
  static const std::vector<float> counts = LargestMultiples(64, 127);
  const auto groups =
      EncodeGroups<16>(GroupRules<IntegerLevels>{levels, reaches, counts, -128, 127}, x);
  // 128 bytes of low nibbles, 64 of high two bits, the scales, the unit. Each half of the block has
  // four runs of 32: nibbles of runs 0 and 2 share bytes, as do those of 1 and 3.
  std::memset(block, 0, 210);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128, run = i / 32 % 4, j = i % 32;
    const int code = groups.codes[i] + 32;
    block[64 * half + 32 * (run % 2) + j] |= static_cast<uint8_t>((code & 15) << (4 * (run / 2)));
    block[128 + 32 * half + j] |= static_cast<uint8_t>((code >> 4) << (2 * run));
  }
  for (int g = 0; g < 16; ++g) block[192 + g] = static_cast<uint8_t>(groups.multiples[g]);
  PutHalf(groups.unit, block + 208);
}

void EncodeQ3_K(const float* x, uint8_t* block) {
  const IntegerLevels levels{-4, 3};
  static const std::vector<float> reaches = BothSigns(1.5f, 5.25f, 0.125f);
  static const std::vector<float> counts = LargestMultiples(14, 31);
  const auto groups =
      EncodeGroups<16>(GroupRules<IntegerLevels>{levels, reaches, counts, -32, 31}, x);
  // 32 bytes of third bits, 64 of two-bit numbers, 12 of scales, the unit.
  std::memset(block, 0, 110);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int run = i / 32, j = i % 32;
    const int code = groups.codes[i] + 4;
    block[j] |= static_cast<uint8_t>((code >> 2) << run);
    block[32 + 32 * (run / 4) + j] |= static_cast<uint8_t>((code & 3) << (2 * (run % 4)));
  }
  for (int g = 0; g < 16; ++g) {
    const int multiple = groups.multiples[g] + 32;
    block[96 + g % 8] |= static_cast<uint8_t>((multiple & 15) << (4 * (g / 8)));
    block[104 + g % 4] |= static_cast<uint8_t>((multiple >> 4) << (2 * (g / 4)));
  }
  PutHalf(groups.unit, block + 108);
}

void EncodeIq4Xs(const float* x, uint8_t* block) {
  static const std::vector<float> reaches = TableReaches();
  static const std::vector<float> counts = LargestMultiples(14, 31);
  const auto groups =
      EncodeGroups<8>(GroupRules<TableLevels>{Iq4NlLevels(), reaches, counts, -32, 31}, x);
  // The unit, high two bits of the scales, low nibbles of the scales, nibbles.
  PutHalf(groups.unit, block);
  std::memset(block + 2, 0, 6);
  for (int g = 0; g < 8; ++g) {
    const int multiple = groups.multiples[g] + 32;
    block[2 + g / 4] |= static_cast<uint8_t>((multiple >> 4) << (2 * (g % 4)));
    block[4 + g / 2] |= static_cast<uint8_t>((multiple & 15) << (4 * (g % 2)));
    PutNibbles(groups.codes + 32 * g, 0, block + 8 + 16 * g);
  }
}

}  // namespace gguf_offload
