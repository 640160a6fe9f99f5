#include "kernels/ops/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/row_chunks.h"
#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ops/rope.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// (a, b) becomes (a cos - b sin, a sin + b cos).
template <class V>
HWY_INLINE void Rotate(V& a, V& b, V cosine, V sine) {
  const V turned = hn::Sub(hn::Mul(a, cosine), hn::Mul(b, sine));
  b = hn::Add(hn::Mul(a, sine), hn::Mul(b, cosine));
  a = turned;
}

void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t pairs) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    hn::Vec<decltype(d)> a, b;
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    Rotate(a, b, hn::LoadU(d, cosines + i), hn::LoadU(d, sines + i));
    hn::StoreInterleaved2(a, b, d, x + 2 * i);
  }
  for (; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

void RotateHalves(float* x, const float* cosines, const float* sines, size_t pairs) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + pairs + i);
    Rotate(a, b, hn::LoadU(d, cosines + i), hn::LoadU(d, sines + i));
    hn::StoreU(a, d, x + i);
    hn::StoreU(b, d, x + pairs + i);
  }
  for (; i < pairs; ++i) {
    const float a = x[i], b = x[pairs + i];
    x[i] = a * cosines[i] - b * sines[i];
    x[pairs + i] = a * sines[i] + b * cosines[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {
namespace {

// YaRN's inverse formula: the (fractional) index of the pair that makes `turns` turns within the
// original context.
double PairOfTurns(const RopeParameters& p, double turns) {
  constexpr double kTwoPi = 6.283185307179586;
  return p.rope_dims * std::log(p.original_context / (turns * kTwoPi)) /
         (2.0 * std::log(static_cast<double>(p.freq_base)));
}

}  // namespace

RopeFrequencies::RopeFrequencies(const RopeParameters& p) : magnitude_(p.attn_factor) {
  const double interpolation = p.scaling == RopeScaling::kNone ? 1.0 : 1.0 / p.factor;
  const bool ramp = p.scaling == RopeScaling::kYarn && p.ext_factor != 0.0f;
  double ramp_begin = 0.0, ramp_end = 0.0;
  if (ramp) {
    ramp_begin = std::max(0.0, std::floor(PairOfTurns(p, p.beta_fast)));
    ramp_end = std::min(p.rope_dims - 1.0, std::ceil(PairOfTurns(p, p.beta_slow)));
    magnitude_ *= static_cast<float>(1.0 + 0.1 * std::log(static_cast<double>(p.factor)));
  }
  radians_.resize(p.rope_dims / 2);
  for (int pair = 0; pair < pairs(); ++pair) {
    const double exponent = -2.0 * pair / p.rope_dims;
    double extrapolated = std::pow(static_cast<double>(p.freq_base), exponent);
    if (p.freq_factors != nullptr) extrapolated /= p.freq_factors[pair];
    double mix = 0.0;  // 0: interpolated, 1: as trained
    if (ramp) {
      const double along = (pair - ramp_begin) / std::max(0.001, ramp_end - ramp_begin);
      mix = (1.0 - std::clamp(along, 0.0, 1.0)) * p.ext_factor;
    }
    radians_[pair] = extrapolated * (interpolation * (1.0 - mix) + mix);
  }
}

void RopeAngles::Compute(const RopeFrequencies& frequencies, const int32_t* positions, size_t n,
                         ThreadPool& pool) {
  rows_ = n;
  pairs_ = frequencies.pairs();
  const size_t elements = n * static_cast<size_t>(pairs_);
  if (cosines_.size() < elements) {
    cosines_.resize(elements);
    sines_.resize(elements);
  }
  // A sine and a cosine in double cost as much as some fifty elements of other work.
  ForEachRowChunk(n, 50 * static_cast<size_t>(pairs_), pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      for (int pair = 0; pair < pairs_; ++pair) {
        const double angle = positions[row] * frequencies.radians(pair);
        const size_t i = row * static_cast<size_t>(pairs_) + pair;
        cosines_[i] = static_cast<float>(std::cos(angle) * frequencies.magnitude());
        sines_[i] = static_cast<float>(std::sin(angle) * frequencies.magnitude());
      }
    }
  });
}

HWY_EXPORT(RotateNeighbours);
HWY_EXPORT(RotateHalves);

void Rope(float* x, size_t row_stride, size_t head_stride, size_t heads, const RopeAngles& angles,
          RopeStyle style, ThreadPool& pool) {
  const auto rotate = style == RopeStyle::kNormal ? HWY_DYNAMIC_DISPATCH(RotateNeighbours)
                                                  : HWY_DYNAMIC_DISPATCH(RotateHalves);
  const size_t pairs = static_cast<size_t>(angles.pairs());
  ForEachRowChunk(angles.rows(), heads * 2 * pairs, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      for (size_t head = 0; head < heads; ++head) {
        rotate(x + row * row_stride + head * head_stride, angles.cosines() + row * pairs,
               angles.sines() + row * pairs, pairs);
      }
    }
  });
}

}  // namespace gguf_offload
#endif  // HWY_ONCE
