// 32-bit words of blocks and numbers from their bits, of one row or of sixteen rows at once, so
// that decoders of scales written once serve both. Compiled once a SIMD target.
//
// A Word is uint32_t, and its FloatOf<Word> float; or, with AVX-512, Words16 and Floats16, which
// have the same operators.
#if defined(KERNELS_QUANT_WORDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_WORDS_INL_H_
#undef KERNELS_QUANT_WORDS_INL_H_
#else
#define KERNELS_QUANT_WORDS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/quant/numbers.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

template <typename T>
HWY_INLINE T LoadAs(const uint8_t* bytes) {
  T value;
  memcpy(&value, bytes, sizeof(value));
  return value;
}

template <typename Word>
struct FloatOfWord {
  using Type = float;
};
template <typename Word>
using FloatOf = typename FloatOfWord<Word>::Type;

// `count` bits of the word from bit `shift` on.
template <typename Word>
HWY_INLINE Word BitsAt(Word word, int shift, int count) {
  return (word >> shift) & ((1u << count) - 1);
}

// Of a word that is the two's complement of the number.
HWY_INLINE float ToFloat(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word)); }

// The binary16 number from bit `shift` on.
HWY_INLINE float HalfAt(uint32_t word, int shift) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3_DL
  return _cvtsh_ss(static_cast<uint16_t>(word >> shift));
#else
  return HalfToFloat(static_cast<uint16_t>(word >> shift));
#endif
}

// The binary32 number with these bits.
HWY_INLINE float FromBits(uint32_t word) {
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

#if HWY_TARGET == HWY_AVX3_DL

using Words16 = uint32_t __attribute__((vector_size(64)));
using Floats16 = float __attribute__((vector_size(64)));
using Signed16 = int32_t __attribute__((vector_size(64)));

template <>
struct FloatOfWord<Words16> {
  using Type = Floats16;
};

// The words at `first` and at every `stride` bytes behind it.
HWY_INLINE Words16 LoadWords16(const uint8_t* first, size_t stride) {
  const auto load = [=](size_t row) HWY_ATTR {
    return static_cast<int>(LoadAs<uint32_t>(first + row * stride));
  };
  // Eight masked broadcasts a half are faster than a gather, and than stores and a wide load.
  const auto load_half = [=](size_t row) HWY_ATTR {
    __m256i words = _mm256_set1_epi32(load(row));
    words = _mm256_mask_set1_epi32(words, 0x02, load(row + 1));
    words = _mm256_mask_set1_epi32(words, 0x04, load(row + 2));
    words = _mm256_mask_set1_epi32(words, 0x08, load(row + 3));
    words = _mm256_mask_set1_epi32(words, 0x10, load(row + 4));
    words = _mm256_mask_set1_epi32(words, 0x20, load(row + 5));
    words = _mm256_mask_set1_epi32(words, 0x40, load(row + 6));
    return _mm256_mask_set1_epi32(words, 0x80, load(row + 7));
  };
  return reinterpret_cast<Words16>(
      _mm512_inserti64x4(_mm512_castsi256_si512(load_half(0)), load_half(8), 1));
}

HWY_INLINE Floats16 ToFloat(Words16 words) {
  return __builtin_convertvector(reinterpret_cast<Signed16>(words), Floats16);
}

HWY_INLINE Floats16 HalfAt(Words16 words, int shift) {
  const __m512i shifted = reinterpret_cast<__m512i>(words >> shift);
  return reinterpret_cast<Floats16>(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(shifted)));
}

HWY_INLINE Floats16 FromBits(Words16 words) { return reinterpret_cast<Floats16>(words); }

#endif

// Half of the power of two that the E8M0 number (OCP Microscaling Formats 1.0) from bit `shift` on
// means: 2^(e - 128). 255, NaN in that format, is 2^128 in GGUF.
template <typename Word>
HWY_INLINE FloatOf<Word> HalfOfE8M0At(Word word, int shift) {
  const Word e = BitsAt(word, shift, 8);
  // The product of two normal numbers, as it may be subnormal itself.
  return FromBits(((e >> 1) + 63) << 23) * FromBits((((e + 1) >> 1) + 63) << 23);
}

// Half of the unsigned E4M3 number from bit `shift` on. Bit 7 does not count, and 127, NaN in that
// format, is 0 in GGUF.
template <typename Word>
HWY_INLINE FloatOf<Word> HalfOfE4M3At(Word word, int shift) {
  const Word bits = BitsAt(word, shift, 7);
  const Word is_nan = (bits + 1) >> 7;
  // Moved to its place in a binary16 number it is 2^-8 of itself, subnormals too.
  return HalfAt((bits - (is_nan << 7) + is_nan) << 7, 0) * 128.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_WORDS_INL_H_
