// Finds scales for groups of values whose codes stand for fixed levels: value = scale * level.
#ifndef TESTS_MODELGEN_QUANTIZE_SCALE_SEARCH_H_
#define TESTS_MODELGEN_QUANTIZE_SCALE_SEARCH_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "tests/modelgen/quantize/levels.h"

namespace gguf_offload {

// Divides by a scale, fast unless the scale is so small that its inverse is no float; by zero:
// zero.
class Divider {
 public:
  explicit Divider(float scale) : scale_(scale), inverse_(scale == 0 ? 0 : 1 / scale) {
    has_inverse_ = std::isfinite(inverse_);
  }
  float operator()(float value) const { return has_inverse_ ? value * inverse_ : value / scale_; }

 private:
  float scale_;
  float inverse_;
  bool has_inverse_;
};

// Squared error of `x` (n) at `scale`, codes being the nearest.
template <typename Levels>
double ErrorAt(const Levels& levels, const float* x, int n, float scale) {
  const Divider divided(scale);
  double error = 0;
  for (int i = 0; i < n; ++i) {
    const double difference = x[i] - scale * levels.Level(levels.Nearest(divided(x[i])));
    error += difference * difference;
  }
  return error;
}

// Writes the nearest codes.
template <typename Levels, typename Code>
void CodesAt(const Levels& levels, const float* x, int n, float scale, Code* codes) {
  const Divider divided(scale);
  for (int i = 0; i < n; ++i) codes[i] = static_cast<Code>(levels.Nearest(divided(x[i])));
}

// A scale and how much it matters: the error grows by weight * (scale - other)^2 with another scale
// and the same codes.
struct FittedScale {
  float scale = 0;
  double weight = 0;
};

// The value of largest magnitude, with its sign.
inline float LargestOf(const float* x, int n) {
  float largest = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  return largest;
}

// The best of the scales that `reaches` gives for `x` (n): for each reach, the largest value is
// taken to that level, and the scale then fitted to the codes that all values get.
template <typename Levels>
FittedScale FitScale(const Levels& levels, const std::vector<float>& reaches, const float* x,
                     int n) {
  const float largest = LargestOf(x, n);
  FittedScale best;
  double best_gain = 0;  // by how much less than the sum of squares the error is
  for (const float reach : reaches) {
    const float inverse = reach / largest;
    if (!std::isfinite(inverse)) continue;  // nothing but zeros, or almost
    float products = 0;
    float squares = 0;
    for (int i = 0; i < n; ++i) {
      const float level = levels.Level(levels.Nearest(x[i] * inverse));
      products += x[i] * level;
      squares += level * level;
    }
    const double gain = squares > 0 ? static_cast<double>(products) * products / squares : 0;
    if (gain > best_gain) {
      best_gain = gain;
      best = {products / squares, squares};
    }
  }
  return best;
}

// `from`, `from` + step, ... `to`, and their negatives.
inline std::vector<float> BothSigns(float from, float to, float step) {
  std::vector<float> values;
  for (float value = from; value <= to; value += step) {
    values.push_back(value);
    values.push_back(-value);
  }
  return values;
}

// Half-precision numbers around `value`: the nearest and its two neighbours of the same sign, or
// the smallest ones for a value that would become zero. Magnitudes stay finite.
inline std::array<float, 3> HalvesAround(float value) {
  const uint16_t half = ToHalf(value);
  const auto sign = static_cast<uint16_t>(half & 0x8000);
  const int magnitude = half & 0x7fff;
  std::array<float, 3> halves;
  for (int i = 0; i < 3; ++i) {
    const int neighbour = std::clamp(magnitude + i - 1, 0, 0x7bff);
    halves[i] = quant::HalfToFloat(static_cast<uint16_t>(sign | neighbour));
  }
  return halves;
}

// Of the numbers largest / n for each n in `counts`, the `best` ones at which whole multiples from
// `low` to `high` come closest to all scales; best first.
template <size_t best>
std::array<float, best> CommonUnits(const FittedScale* scales, int groups, float largest,
                                    const std::vector<float>& counts, int low, int high) {
  std::array<float, best> units{};
  std::array<double, best> costs;
  costs.fill(HUGE_VAL);
  const IntegerLevels multiples{low, high};
  for (const float count : counts) {
    float unit = largest / count;
    double cost = 0;
    for (int g = 0; g < groups; ++g) {
      const double difference =
          scales[g].scale - unit * multiples.Level(multiples.Nearest(scales[g].scale / unit));
      cost += scales[g].weight * difference * difference;
    }
    for (size_t i = 0; i < best; ++i) {
      if (!(cost < costs[i])) continue;
      std::swap(cost, costs[i]);
      std::swap(unit, units[i]);
    }
  }
  return units;
}

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_SCALE_SEARCH_H_
