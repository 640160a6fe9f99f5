// Sixteen rows of 32 bytes: transposed as words, or multiplied. Compiled once a SIMD target.
#if defined(KERNELS_QUANT_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_TRANSPOSE_INL_H_
#undef KERNELS_QUANT_TRANSPOSE_INL_H_
#else
#define KERNELS_QUANT_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/quant/attributes-inl.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3_DL

// `load_pair(r)` gives rows r and r + 4 in the halves of a vector. columns: (8, 16), aligned.
template <typename LoadPair>
HWY_INLINE void TransposePairs16x8(const LoadPair& load_pair, void* HWY_RESTRICT columns) {
  // Transposing 4 by 4 within 128-bit lanes leaves column c of rows r to r + 3 in lane 0, column
  // c + 4 of them in lane 1, and the same of rows r + 4 to r + 7 in lanes 2 and 3.
  __m512i column[2][4];
  for (int half = 0; half < 2; ++half) {
    const __m512i row0 = load_pair(8 * half), row1 = load_pair(8 * half + 1);
    const __m512i row2 = load_pair(8 * half + 2), row3 = load_pair(8 * half + 3);
    const __m512i low01 = _mm512_unpacklo_epi32(row0, row1);
    const __m512i high01 = _mm512_unpackhi_epi32(row0, row1);
    const __m512i low23 = _mm512_unpacklo_epi32(row2, row3);
    const __m512i high23 = _mm512_unpackhi_epi32(row2, row3);
    column[half][0] = _mm512_unpacklo_epi64(low01, low23);
    column[half][1] = _mm512_unpackhi_epi64(low01, low23);
    column[half][2] = _mm512_unpacklo_epi64(high01, high23);
    column[half][3] = _mm512_unpackhi_epi64(high01, high23);
  }
  __m512i* out = static_cast<__m512i*>(columns);
  for (int c = 0; c < 4; ++c) {
    _mm512_store_si512(out + c, _mm512_shuffle_i32x4(column[0][c], column[1][c], 0x88));
    _mm512_store_si512(out + c + 4, _mm512_shuffle_i32x4(column[0][c], column[1][c], 0xdd));
  }
}

// Dot products of four bytes each, `pair` unsigned and `activations` signed.
HWY_INLINE __m512i DotPair(__m512i pair, __m512i activations) {
  return _mm512_dpbusd_epi32(_mm512_setzero_si512(), pair, activations);
}

// Dot products of the sixteen rows' bytes (unsigned) with `activations` (32): of the first sixteen
// bytes and of the last sixteen. `load_pair` as above.
struct HalfSums {
  __m512i first, last;
};
template <typename LoadPair>
HWY_INLINE HalfSums DotPairs16x32(const LoadPair& load_pair, const int8_t* activations) {
  const __m512i twice =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(activations)));
  // Adding up while transposing 4 by 4 leaves the sums of rows r to r + 3 in the lanes, of the
  // first bytes in lane 0, of the last in lane 1, and the same of rows r + 4 to r + 7 in lanes 2
  // and 3.
  __m512i sums[2];
  for (int half = 0; half < 2; ++half) {
    const __m512i row0 = DotPair(load_pair(8 * half), twice),
                  row1 = DotPair(load_pair(8 * half + 1), twice);
    const __m512i row2 = DotPair(load_pair(8 * half + 2), twice),
                  row3 = DotPair(load_pair(8 * half + 3), twice);
    const __m512i rows01 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(row0, row1), _mm512_unpackhi_epi32(row0, row1));
    const __m512i rows23 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(row2, row3), _mm512_unpackhi_epi32(row2, row3));
    sums[half] = _mm512_add_epi32(_mm512_unpacklo_epi64(rows01, rows23),
                                  _mm512_unpackhi_epi64(rows01, rows23));
  }
  return {_mm512_shuffle_i32x4(sums[0], sums[1], 0x88),
          _mm512_shuffle_i32x4(sums[0], sums[1], 0xdd)};
}

#endif

// Row r begins `stride` * r bytes after `rows`. columns: (8, 16), aligned.
HWY_INLINE void TransposeWords16x8(const void* HWY_RESTRICT rows, size_t stride,
                                   void* HWY_RESTRICT columns) {
  const uint8_t* in = static_cast<const uint8_t*>(rows);
#if HWY_TARGET == HWY_AVX3_DL
  const auto load_pair = [=](size_t row) GGUF_OFFLOAD_ATTR {
    const __m256i* first = reinterpret_cast<const __m256i*>(in + row * stride);
    const __m256i* second = reinterpret_cast<const __m256i*>(in + (row + 4) * stride);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(first)),
                              _mm256_loadu_si256(second), 1);
  };
  TransposePairs16x8(load_pair, columns);
#elif HWY_TARGET == HWY_AVX2
  __m128i* out = static_cast<__m128i*>(columns);
  for (int rows4 = 0; rows4 < 4; ++rows4) {
    __m256i row[4];
    for (int r = 0; r < 4; ++r) {
      row[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + (4 * rows4 + r) * stride));
    }
    const __m256i low01 = _mm256_unpacklo_epi32(row[0], row[1]);
    const __m256i high01 = _mm256_unpackhi_epi32(row[0], row[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(row[2], row[3]);
    const __m256i high23 = _mm256_unpackhi_epi32(row[2], row[3]);
    const __m256i column[4] = {
        _mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (int c = 0; c < 4; ++c) {
      _mm_store_si128(out + 4 * c + rows4, _mm256_castsi256_si128(column[c]));
      _mm_store_si128(out + 4 * (c + 4) + rows4, _mm256_extracti128_si256(column[c], 1));
    }
  }
#else
  uint8_t* out = static_cast<uint8_t*>(columns);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t c = 0; c < 8; ++c) memcpy(out + 64 * c + 4 * row, in + row * stride + 4 * c, 4);
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_TRANSPOSE_INL_H_
