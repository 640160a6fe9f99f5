// The exponential function that softmax and the gated activations share, for inclusion by SIMD
// sources (once a target, after hwy/highway.h).

#if defined(KERNELS_OPS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_OPS_EXP_INL_H_
#undef KERNELS_OPS_EXP_INL_H_
#else
#define KERNELS_OPS_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {

// e^x for each lane, within 2 units in the last place. Below -87 the result is exactly 0 (it would
// be subnormal soon after), above 88 it is e^88, so that no step overflows; NaN stays NaN.
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V FastExp(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  const V low = hn::Set(d, -87.0f);
  const V high = hn::Set(d, 88.0f);
  const auto underflow = hn::Lt(x, low);
  x = hn::IfThenElse(hn::Gt(x, high), high, x);
  // x = n * ln 2 + r with |r| <= ln(2) / 2; ln 2 in two parts, the first exact when multiplied by
  // n.
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const V n_float = hn::ConvertTo(d, n);
  V r = hn::MulAdd(n_float, hn::Set(d, -0.693359375f), x);
  r = hn::MulAdd(n_float, hn::Set(d, 2.12194440e-4f), r);
  // The Taylor series up to r^7: the next term is less than 6e-9.
  V y = hn::Set(d, 1.0f / 5040);
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f / 720));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f / 120));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f / 24));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f / 6));
  y = hn::MulAdd(y, r, hn::Set(d, 0.5f));
  y = hn::MulAdd(hn::Mul(r, r), y, r);
  y = hn::Add(y, hn::Set(d, 1.0f));
  const V scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  return hn::IfThenElse(underflow, hn::Zero(d), hn::Mul(y, scale));
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_OPS_EXP_INL_H_
