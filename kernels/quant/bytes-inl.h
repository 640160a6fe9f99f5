// Vectors of unsigned bytes for the unpackers: Bytes32 holds 32 elements of one row, Bytes64 32
// elements of each of two rows, so that decoders written once serve both. Compiled once a SIMD
// target.
//
// Both have:
//   Source                        where a row's (or two rows') block begins
//   Load(source, at)              the 32 bytes at offset `at` of the block
//   LoadNibbles(source, at)       the low nibbles of the 16 bytes there, then the high ones
//   LoadNibblesBy8(source, at)    the same for the first 8 bytes, then for the next 8
//   LoadBits(source, at, value)   `value` where a bit of the 32 there is set, else 0
//   LoadBitPairs(source, at)      the 32 two-bit numbers of the 8 bytes there, lowest bits first
//   Bits(shift, mask)             (byte >> shift) & mask; << -shift if negative. What a shift
//   brings
//                                 in from the neighbouring byte must not be in `mask`.
//   a | b, a ^ mask               bitwise
//   LookUp(table)                 entries of a table of sixteen; bytes are less than 16
#if defined(KERNELS_QUANT_BYTES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_BYTES_INL_H_
#undef KERNELS_QUANT_BYTES_INL_H_
#else
#define KERNELS_QUANT_BYTES_INL_H_
#endif

#include "kernels/quant/grids.h"
#include "kernels/quant/words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3_DL

class Bytes32 {
 public:
  using Source = const uint8_t*;

  static HWY_INLINE Bytes32 Load(Source block, size_t at) {
    return Bytes32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + at)));
  }
  static HWY_INLINE Bytes32 LoadNibbles(Source block, size_t at) {
    const __m256i shifts = _mm256_set_epi64x(4, 4, 0, 0);
    return Bytes32(_mm256_srlv_epi64(LoadTwice(block + at), shifts)).Bits(0, 15);
  }
  static HWY_INLINE Bytes32 LoadNibblesBy8(Source block, size_t at) {
    const __m256i words = _mm256_permute4x64_epi64(LoadTwice(block + at), 0x50);
    return Bytes32(_mm256_srlv_epi64(words, _mm256_set_epi64x(4, 0, 4, 0))).Bits(0, 15);
  }
  static HWY_INLINE Bytes32 LoadBits(Source block, size_t at, uint8_t value) {
    return FromBits(LoadAs<uint32_t>(block + at), value);
  }
  static HWY_INLINE Bytes32 LoadBitPairs(Source block, size_t at) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + at));
    const __m256i words = _mm256_cvtepu8_epi32(bytes);
    // A byte's nibbles go apart, then the halves of each.
    const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi32(words, 12)),
                                             _mm256_set1_epi32(0x000f000f));
    return Bytes32(_mm256_or_si256(nibbles, _mm256_slli_epi32(nibbles, 6))).Bits(0, 3);
  }
  static HWY_INLINE Bytes32 FromWords(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    return Bytes32(_mm256_set_epi64x(static_cast<int64_t>(d), static_cast<int64_t>(c),
                                     static_cast<int64_t>(b), static_cast<int64_t>(a)));
  }
  HWY_INLINE void Store(uint8_t* bytes) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), vector_);
  }

  HWY_INLINE Bytes32 Bits(int shift, uint8_t mask) const {
    const __m256i shifted =
        shift < 0 ? _mm256_slli_epi16(vector_, -shift) : _mm256_srli_epi16(vector_, shift);
    return Bytes32(_mm256_and_si256(shifted, _mm256_set1_epi8(static_cast<char>(mask))));
  }
  HWY_INLINE Bytes32 operator|(Bytes32 other) const {
    return Bytes32(_mm256_or_si256(vector_, other.vector_));
  }
  HWY_INLINE Bytes32 operator^(uint8_t mask) const {
    return Bytes32(_mm256_xor_si256(vector_, _mm256_set1_epi8(static_cast<char>(mask))));
  }
  HWY_INLINE Bytes32 LookUp(const uint8_t* table) const {
    return Bytes32(_mm256_shuffle_epi8(LoadTwice(table), vector_));
  }
  // 128 + byte, or 128 - byte where the bit of `signs` is set; bytes are less than 128.
  HWY_INLINE Bytes32 WithSigns(uint32_t signs) const {
    const __m256i bias = _mm256_set1_epi8(-128);
    const __m256i positive = _mm256_add_epi8(bias, vector_);
#if HWY_TARGET == HWY_AVX3_DL
    return Bytes32(_mm256_mask_sub_epi8(positive, signs, bias, vector_));
#else
    const __m256i negative = _mm256_sub_epi8(bias, vector_);
    return Bytes32(_mm256_blendv_epi8(positive, negative, FromBits(signs, 255).vector_));
#endif
  }

 private:
  explicit HWY_INLINE Bytes32(__m256i vector) : vector_(vector) {}

  static HWY_INLINE __m256i LoadTwice(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static HWY_INLINE Bytes32 FromBits(uint32_t bits, uint8_t value) {
#if HWY_TARGET == HWY_AVX3_DL
    return Bytes32(_mm256_maskz_set1_epi8(bits, static_cast<char>(value)));
#else
    const __m256i byte_of_bit =
        _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i spread =
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of_bit);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    return Bytes32(_mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(value))));
#endif
  }

  __m256i vector_;
};

#else  // no vectors: words of eight bytes

class Bytes32 {
 public:
  using Source = const uint8_t*;

  static HWY_INLINE Bytes32 Load(Source block, size_t at) {
    Bytes32 loaded;
    memcpy(loaded.words_, block + at, 32);
    return loaded;
  }
  static HWY_INLINE Bytes32 LoadNibbles(Source block, size_t at) {
    const uint64_t a = LoadAs<uint64_t>(block + at), b = LoadAs<uint64_t>(block + at + 8);
    return FromWords(a, b, a >> 4, b >> 4).Bits(0, 15);
  }
  static HWY_INLINE Bytes32 LoadNibblesBy8(Source block, size_t at) {
    const uint64_t a = LoadAs<uint64_t>(block + at), b = LoadAs<uint64_t>(block + at + 8);
    return FromWords(a, a >> 4, b, b >> 4).Bits(0, 15);
  }
  static HWY_INLINE Bytes32 LoadBits(Source block, size_t at, uint8_t value) {
    return FromBits(LoadAs<uint32_t>(block + at), value);
  }
  static HWY_INLINE Bytes32 LoadBitPairs(Source block, size_t at) {
    const auto spread = [=](size_t i) {
      // Two bytes go apart, then the nibbles of each, then the halves of those.
      uint64_t bits = LoadAs<uint16_t>(block + at + 2 * i);
      bits = (bits | bits << 24) & 0x000000ff000000ff;
      bits = (bits | bits << 12) & 0x000f000f000f000f;
      return bits | bits << 6;
    };
    return FromWords(spread(0), spread(1), spread(2), spread(3)).Bits(0, 3);
  }
  static HWY_INLINE Bytes32 FromWords(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    Bytes32 bytes;
    bytes.words_[0] = a;
    bytes.words_[1] = b;
    bytes.words_[2] = c;
    bytes.words_[3] = d;
    return bytes;
  }
  HWY_INLINE void Store(uint8_t* bytes) const { memcpy(bytes, words_, 32); }

  HWY_INLINE Bytes32 Bits(int shift, uint8_t mask) const {
    return ForEach([=](uint64_t word, int) {
      return (shift < 0 ? word << -shift : word >> shift) & Repeat(mask);
    });
  }
  HWY_INLINE Bytes32 operator|(Bytes32 other) const {
    return ForEach([&](uint64_t word, int i) { return word | other.words_[i]; });
  }
  HWY_INLINE Bytes32 operator^(uint8_t mask) const {
    return ForEach([=](uint64_t word, int) { return word ^ Repeat(mask); });
  }
  HWY_INLINE Bytes32 LookUp(const uint8_t* table) const {
    uint8_t bytes[32];
    Store(bytes);
    for (uint8_t& byte : bytes) byte = table[byte];
    return Load(bytes, 0);
  }
  HWY_INLINE Bytes32 WithSigns(uint32_t signs) const {
    // No byte carries into its neighbour or borrows from it.
    const Bytes32 negative = FromBits(signs, 255);
    return ForEach([&](uint64_t word, int i) {
      const uint64_t plus = Repeat(128) + word, minus = Repeat(128) - word;
      return plus ^ ((plus ^ minus) & negative.words_[i]);
    });
  }

 private:
  Bytes32() = default;

  static constexpr uint64_t Repeat(uint8_t value) { return uint64_t{0x0101010101010101} * value; }

  static HWY_INLINE Bytes32 FromBits(uint32_t bits, uint8_t value) {
    return FromWords(kSignBytes[bits & 255], kSignBytes[(bits >> 8) & 255],
                     kSignBytes[(bits >> 16) & 255], kSignBytes[bits >> 24])
        .Bits(0, value);
  }

  template <typename Function>
  HWY_INLINE Bytes32 ForEach(const Function& function) const {
    Bytes32 result;
    for (int i = 0; i < 4; ++i) result.words_[i] = function(words_[i], i);
    return result;
  }

  uint64_t words_[4];
};

#endif

#if HWY_TARGET == HWY_AVX3_DL

class Bytes64 {
 public:
  struct Source {
    const uint8_t* first;
    const uint8_t* second;
  };

  static HWY_INLINE Bytes64 Load(Source blocks, size_t at) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks.first + at));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks.second + at));
    return Bytes64(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
  }
  static HWY_INLINE Bytes64 LoadNibbles(Source blocks, size_t at) {
    const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
    return Bytes64(_mm512_srlv_epi64(LoadTwice(blocks, at), shifts)).Bits(0, 15);
  }
  static HWY_INLINE Bytes64 LoadNibblesBy8(Source blocks, size_t at) {
    const __m512i words = _mm512_permutex_epi64(LoadTwice(blocks, at), 0x50);
    const __m512i shifts = _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0);
    return Bytes64(_mm512_srlv_epi64(words, shifts)).Bits(0, 15);
  }
  static HWY_INLINE Bytes64 LoadBits(Source blocks, size_t at, uint8_t value) {
    const uint64_t bits = LoadAs<uint32_t>(blocks.first + at) |
                          static_cast<uint64_t>(LoadAs<uint32_t>(blocks.second + at)) << 32;
    return Bytes64(_mm512_maskz_set1_epi8(bits, static_cast<char>(value)));
  }
  static HWY_INLINE Bytes64 LoadBitPairs(Source blocks, size_t at) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(blocks.first + at));
    const __m128i second = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(blocks.second + at));
    const __m512i words = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(first, second));
    // As in Bytes32.
    const __m512i nibbles = _mm512_and_si512(_mm512_or_si512(words, _mm512_slli_epi32(words, 12)),
                                             _mm512_set1_epi32(0x000f000f));
    return Bytes64(_mm512_or_si512(nibbles, _mm512_slli_epi32(nibbles, 6))).Bits(0, 3);
  }

  HWY_INLINE Bytes64 Bits(int shift, uint8_t mask) const {
    const __m512i shifted =
        shift < 0 ? _mm512_slli_epi16(vector_, -shift) : _mm512_srli_epi16(vector_, shift);
    return Bytes64(_mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>(mask))));
  }
  HWY_INLINE Bytes64 operator|(Bytes64 other) const {
    return Bytes64(_mm512_or_si512(vector_, other.vector_));
  }
  HWY_INLINE Bytes64 operator^(uint8_t mask) const {
    return Bytes64(_mm512_xor_si512(vector_, _mm512_set1_epi8(static_cast<char>(mask))));
  }
  HWY_INLINE Bytes64 LookUp(const uint8_t* table) const {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return Bytes64(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), vector_));
  }

  HWY_INLINE __m512i vector() const { return vector_; }

 private:
  explicit HWY_INLINE Bytes64(__m512i vector) : vector_(vector) {}

  // 16 bytes of each row, twice.
  static HWY_INLINE __m512i LoadTwice(Source blocks, size_t at) {
    const auto load = [](const uint8_t* bytes) HWY_ATTR {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    };
    return _mm512_inserti64x4(_mm512_castsi256_si512(load(blocks.first + at)),
                              load(blocks.second + at), 1);
  }

  __m512i vector_;
};

#endif  // HWY_TARGET == HWY_AVX3_DL

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_BYTES_INL_H_
