#include "kernels/ops/vector.h"

#include <limits>

#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ops/vector.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"
#include "kernels/ops/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void AddRow(const float* x, const float* y, size_t n, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = x[i] + y[i];
}

void AddScaledRow(const float* x, float scale, size_t n, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> d1;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, x + i), hn::Set(d, scale), hn::LoadU(d, out + i)), d,
               out + i);
  }
  for (; i < n; ++i) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d1, x + i), hn::Set(d1, scale), hn::LoadU(d1, out + i)), d1,
               out + i);
  }
}

void ScaleRow(const float* x, float scale, size_t n, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale)), d, out + i);
  }
  for (; i < n; ++i) out[i] = x[i] * scale;
}

// The largest element that is not NaN, or -infinity.
float Largest(const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  float largest = -std::numeric_limits<float>::infinity();
  auto largest0 = hn::Set(d, largest), largest1 = largest0;
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    largest0 = hn::IfThenElse(hn::Gt(x0, largest0), x0, largest0);
    largest1 = hn::IfThenElse(hn::Gt(x1, largest1), x1, largest1);
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  const float of_lanes = hn::GetLane(hn::MaxOfLanes(d, hn::Max(largest0, largest1)));
  return of_lanes > largest ? of_lanes : largest;
}

void SoftmaxRow(const float* x, size_t n, float* out) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> d1;
  const size_t lanes = hn::Lanes(d);
  const float largest = Largest(x, n);
  // Blocks are summed in double: a vocabulary's worth of float additions would lose two digits.
  constexpr size_t kBlock = 1024;
  double sum = 0.0;
  size_t i = 0;
  while (i + lanes <= n) {
    const size_t block_end = n - i < kBlock ? n : i + kBlock;
    auto sums = hn::Zero(d);
    for (; i + lanes <= block_end; i += lanes) {
      const auto e = FastExp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, largest)));
      sums = hn::Add(sums, e);
      hn::StoreU(e, d, out + i);
    }
    sum += hn::GetLane(hn::SumOfLanes(d, sums));
  }
  for (; i < n; ++i) {
    out[i] = hn::GetLane(FastExp(d1, hn::Sub(hn::LoadU(d1, x + i), hn::Set(d1, largest))));
    sum += out[i];
  }
  ScaleRow(out, static_cast<float>(1.0 / sum), n, out);
}

size_t ArgMaxRow(const float* x, size_t n) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const float largest = Largest(x, n);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    if (!hn::AllFalse(d, hn::Eq(hn::LoadU(d, x + i), hn::Set(d, largest)))) break;
  }
  for (; i < n; ++i) {
    if (x[i] == largest) return i;
  }
  return 0;
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(AddRow);
HWY_EXPORT(AddScaledRow);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(SoftmaxRow);
HWY_EXPORT(ArgMaxRow);

void Add(const float* x, const float* y, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddRow)(x, y, n, out);
}

void AddScaled(const float* x, float scale, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddScaledRow)(x, scale, n, out);
}

void Scale(const float* x, float scale, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ScaleRow)(x, scale, n, out);
}

void Softmax(const float* x, size_t n, float* out) { HWY_DYNAMIC_DISPATCH(SoftmaxRow)(x, n, out); }

size_t ArgMax(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(ArgMaxRow)(x, n); }

}  // namespace gguf_offload
#endif  // HWY_ONCE
