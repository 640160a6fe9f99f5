// Vectors of sixteen rows: what the integer kernel calculates with. Compiled once a SIMD target.
//
// Sixteen 32-bit lanes are one AVX-512 register, two AVX2 registers, or sixteen plain numbers.
#if defined(KERNELS_MATMUL_ROWS16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_MATMUL_ROWS16_INL_H_
#undef KERNELS_MATMUL_ROWS16_INL_H_
#else
#define KERNELS_MATMUL_ROWS16_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/quant/attributes-inl.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, 16>;
using IntTag = hn::RebindToSigned<FloatTag>;
constexpr size_t kLanes = hn::MaxLanes(FloatTag());
constexpr size_t kParts = 16 / kLanes;

struct Floats16 {
  hn::Vec<FloatTag> part[kParts];

  static HWY_INLINE Floats16 Load(const float* aligned) {
    Floats16 floats;
    for (size_t i = 0; i < kParts; ++i) floats.part[i] = hn::Load(FloatTag(), aligned + i * kLanes);
    return floats;
  }
  HWY_INLINE void Store(float* aligned) const {
    for (size_t i = 0; i < kParts; ++i) hn::Store(part[i], FloatTag(), aligned + i * kLanes);
  }
  static HWY_INLINE Floats16 Broadcast(float value) {
    Floats16 floats;
    for (size_t i = 0; i < kParts; ++i) floats.part[i] = hn::Set(FloatTag(), value);
    return floats;
  }
  // *this += a * b
  HWY_INLINE void AddProduct(const Floats16& a, const Floats16& b) {
    for (size_t i = 0; i < kParts; ++i) part[i] = hn::MulAdd(a.part[i], b.part[i], part[i]);
  }
};

// Four consecutive columns of sixteen rows, one unsigned byte each: (16, 4).
struct Quads16 {
#if HWY_TARGET == HWY_AVX3_DL
  __m512i bytes;

  static HWY_INLINE Quads16 Load(const uint8_t* aligned) { return {_mm512_load_si512(aligned)}; }
#elif HWY_TARGET == HWY_AVX2
  // Bytes 0 and 2, and bytes 1 and 3, of each row, widened to 16 bits: the 8-bit multiplication of
  // AVX2 saturates, the 16-bit one cannot.
  __m256i even[2], odd[2];

  static HWY_INLINE Quads16 Load(const uint8_t* aligned) {
    Quads16 quads;
    for (int i = 0; i < 2; ++i) {
      const __m256i bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(aligned) + i);
      quads.even[i] = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
      quads.odd[i] = _mm256_srli_epi16(bytes, 8);
    }
    return quads;
  }
#else
  const uint8_t* bytes;

  static HWY_INLINE Quads16 Load(const uint8_t* aligned) { return {aligned}; }
#endif
};

// Sixteen integer sums, one a row.
struct Ints16 {
#if HWY_TARGET == HWY_AVX3_DL
  __m512i sums;

  static HWY_INLINE Ints16 Broadcast(int32_t value) { return {_mm512_set1_epi32(value)}; }

  // aligned: (16); adds `value` to each.
  static HWY_INLINE Ints16 LoadPlus(const int32_t* aligned, int32_t value) {
    return {_mm512_add_epi32(_mm512_load_si512(aligned), _mm512_set1_epi32(value))};
  }

  // Adds to each row's sum the dot product of its four weights and `activations` (4).
  HWY_INLINE void AddDotProducts(const Quads16& weights, const int8_t* activations) {
    int32_t quad;
    memcpy(&quad, activations, sizeof(quad));
    sums = _mm512_dpbusd_epi32(sums, weights.bytes, _mm512_set1_epi32(quad));
  }

  // float(sums) * factor
  HWY_INLINE Floats16 Scaled(float factor) const {
    return {{hn::Mul(hn::Vec<FloatTag>{_mm512_cvtepi32_ps(sums)}, hn::Set(FloatTag(), factor))}};
  }
#elif HWY_TARGET == HWY_AVX2
  __m256i sums[2];

  static HWY_INLINE Ints16 Broadcast(int32_t value) {
    return {{_mm256_set1_epi32(value), _mm256_set1_epi32(value)}};
  }

  HWY_INLINE void AddDotProducts(const Quads16& weights, const int8_t* activations) {
    int32_t quad;
    memcpy(&quad, activations, sizeof(quad));
    const __m256i bytes = _mm256_set1_epi32(quad);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    const __m256i odd = _mm256_srai_epi16(bytes, 8);
    for (int i = 0; i < 2; ++i) {
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(weights.even[i], even));
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(weights.odd[i], odd));
    }
  }

  HWY_INLINE Floats16 Scaled(float factor) const {
    Floats16 scaled;
    for (int i = 0; i < 2; ++i) {
      scaled.part[i] =
          hn::Mul(hn::Vec<FloatTag>{_mm256_cvtepi32_ps(sums[i])}, hn::Set(FloatTag(), factor));
    }
    return scaled;
  }
#else
  int32_t sums[16];

  static HWY_INLINE Ints16 Broadcast(int32_t value) {
    Ints16 ints;
    for (int row = 0; row < 16; ++row) ints.sums[row] = value;
    return ints;
  }

  HWY_INLINE void AddDotProducts(const Quads16& weights, const int8_t* activations) {
    for (int row = 0; row < 16; ++row) {
      for (int i = 0; i < 4; ++i) sums[row] += weights.bytes[4 * row + i] * activations[i];
    }
  }

  HWY_INLINE Floats16 Scaled(float factor) const {
    HWY_ALIGN float scaled[16];
    for (int row = 0; row < 16; ++row) scaled[row] = static_cast<float>(sums[row]) * factor;
    return Floats16::Load(scaled);
  }
#endif
};

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_MATMUL_ROWS16_INL_H_
