#include "kernels/ops/activation.h"

#include "kernels/ops/row_chunks.h"
#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ops/activation.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"
#include "kernels/ops/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x * sigmoid(alpha * x)
template <class D, class V>
HWY_INLINE V Swish(D d, V x, V alpha) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(x, hn::Add(one, FastExp(d, hn::Neg(hn::Mul(alpha, x)))));
}

// Applies step(d, gate, up) to whole vectors, then to the rest one by one.
template <class Step>
HWY_INLINE void ForEachElement(const float* gate, const float* up, size_t dim, float* out,
                               const Step& step) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    hn::StoreU(step(d, hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  }
  const hn::CappedTag<float, 1> d1;
  for (; i < dim; ++i) {
    hn::StoreU(step(d1, hn::LoadU(d1, gate + i), hn::LoadU(d1, up + i)), d1, out + i);
  }
}

struct SwiGluStep {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V gate, V up) const {
    return hn::Mul(Swish(d, gate, hn::Set(d, 1.0f)), up);
  }
};

struct SiluStep {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x, V) const {
    return Swish(d, x, hn::Set(d, 1.0f));
  }
};

struct ClampedSwiGluStep {
  float alpha;
  float limit;

  // Comparisons and selections instead of Min and Max, which lose NaN on some targets.
  template <class D, class V>
  HWY_INLINE V operator()(D d, V gate, V up) const {
    const V high = hn::Set(d, limit);
    const V low = hn::Neg(high);
    gate = hn::IfThenElse(hn::Gt(gate, high), high, gate);
    up = hn::IfThenElse(hn::Gt(up, high), high, up);
    up = hn::IfThenElse(hn::Lt(up, low), low, up);
    return hn::Mul(Swish(d, gate, hn::Set(d, alpha)), hn::Add(up, hn::Set(d, 1.0f)));
  }
};

void SwiGluRow(const float* gate, const float* up, size_t dim, float* out) {
  ForEachElement(gate, up, dim, out, SwiGluStep());
}

void SiluRow(const float* x, size_t dim, float* out) { ForEachElement(x, x, dim, out, SiluStep()); }

void ClampedSwiGluRow(const float* gate, const float* up, float alpha, float limit, size_t dim,
                      float* out) {
  ForEachElement(gate, up, dim, out, ClampedSwiGluStep{alpha, limit});
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(SwiGluRow);
HWY_EXPORT(ClampedSwiGluRow);
HWY_EXPORT(SiluRow);

void SwiGlu(const float* gate, size_t gate_stride, const float* up, size_t up_stride, size_t n,
            size_t dim, float* out, size_t out_stride, ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(SwiGluRow);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      row_function(gate + row * gate_stride, up + row * up_stride, dim, out + row * out_stride);
    }
  });
}

void ClampedSwiGlu(const float* gate, size_t gate_stride, const float* up, size_t up_stride,
                   float alpha, float limit, size_t n, size_t dim, float* out, size_t out_stride,
                   ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(ClampedSwiGluRow);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      row_function(gate + row * gate_stride, up + row * up_stride, alpha, limit, dim,
                   out + row * out_stride);
    }
  });
}

void Silu(const float* x, size_t x_stride, size_t n, size_t dim, float* out, size_t out_stride,
          ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(SiluRow);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      row_function(x + row * x_stride, dim, out + row * out_stride);
    }
  });
}

}  // namespace gguf_offload
#endif  // HWY_ONCE
