// Decoders of the K formats: blocks of 256 whose groups' scales are quantized themselves.
// Compiled once a SIMD target.
//
// The decoders are as in unpack_simple-inl.h. Runs are 32 consecutive elements, of which an array
// of 32 bytes holds several at different bits.
#if defined(KERNELS_QUANT_UNPACK_K_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_UNPACK_K_INL_H_
#undef KERNELS_QUANT_UNPACK_K_INL_H_
#else
#define KERNELS_QUANT_UNPACK_K_INL_H_
#endif

#include "kernels/quant/bytes-inl.h"
#include "kernels/quant/format.h"
#include "kernels/quant/words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// 16 bytes of (scale, minimum) nibbles | 64 bytes of two-bit numbers | f16 d | f16 dmin.
struct DecodeQ2_K {
  static constexpr TensorType kType = TensorType::kQ2_K;
  static constexpr int kBlockElements = 256, kBlockBytes = 84;
  static constexpr int kGroupElements = 16, kBias = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int kScaleWordsAt[] = {0, 4, 8, 12, 80};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[4], 0);
    const FloatOf<Word> dmin = HalfAt(words[4], 16);
    for (int group = 0; group < 16; ++group) {
      const int byte = 8 * (group % 4);
      scale[group] = d * ToFloat(BitsAt(words[group / 4], byte, 4));
      offset[group] = -(dmin * ToFloat(BitsAt(words[group / 4], byte + 4, 4)));
    }
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::Load(block, 16 + 32 * (run / 4)).Bits(2 * (run % 4), 3);
  }
};

// 32 bytes of third bits (bit r of byte i: element i of run r) | 64 bytes of two-bit numbers |
// 12 bytes of scales | f16 d. Scale j of 16 is six bits, minus 32: four of them in the nibbles of
// bytes 0 to 7 (low nibbles first), two in bytes 8 to 11.
struct DecodeQ3_K {
  static constexpr TensorType kType = TensorType::kQ3_K;
  static constexpr int kBlockElements = 256, kBlockBytes = 110;
  static constexpr int kGroupElements = 16, kBias = 4;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {96, 100, 104, 106};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[3], 16);
    for (int group = 0; group < 16; ++group) {
      const int byte = 8 * (group % 4);
      const Word low = BitsAt(words[group / 4 % 2], byte + 4 * (group / 8), 4);
      const Word high = BitsAt(words[2], byte + 2 * (group / 4), 2);
      scale[group] = d * ToFloat((low | high << 4) - 32);
    }
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    const Bytes third = Bytes::Load(block, 0).Bits(run - 2, 4);
    return Bytes::Load(block, 32 + 32 * (run / 4)).Bits(2 * (run % 4), 3) | third;
  }
};

// The scales and minima of Q4_K and Q5_K: f16 d | f16 dmin | 12 bytes of eight six-bit scales and
// eight six-bit minima. Bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 minima 0 to 3, and above them
// two bits of numbers 4 to 7, whose low nibbles are in bytes 8 to 11.
template <typename Word>
HWY_INLINE void SixBitScales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
  const FloatOf<Word> d = HalfAt(words[0], 0);
  const FloatOf<Word> dmin = HalfAt(words[0], 16);
  for (int i = 0; i < 4; ++i) {
    const int byte = 8 * i;
    scale[i] = d * ToFloat(BitsAt(words[1], byte, 6));
    offset[i] = -(dmin * ToFloat(BitsAt(words[2], byte, 6)));
    const Word scale_bits = BitsAt(words[3], byte, 4) | BitsAt(words[1], byte + 6, 2) << 4;
    const Word minimum_bits = BitsAt(words[3], byte + 4, 4) | BitsAt(words[2], byte + 6, 2) << 4;
    scale[i + 4] = d * ToFloat(scale_bits);
    offset[i + 4] = -(dmin * ToFloat(minimum_bits));
  }
}

// Scales as above | 128 bytes of nibbles: each 32 bytes are two runs, low nibbles first.
struct DecodeQ4_K {
  static constexpr TensorType kType = TensorType::kQ4_K;
  static constexpr int kBlockElements = 256, kBlockBytes = 144;
  static constexpr int kGroupElements = 32, kBias = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int kScaleWordsAt[] = {0, 4, 8, 12};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    SixBitScales(words, scale, offset);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::Load(block, 16 + 32 * (run / 2)).Bits(4 * (run % 2), 15);
  }
};

// Scales as above | 32 bytes of fifth bits (bit r of byte i: element i of run r) | nibbles as Q4_K.
struct DecodeQ5_K {
  static constexpr TensorType kType = TensorType::kQ5_K;
  static constexpr int kBlockElements = 256, kBlockBytes = 176;
  static constexpr int kGroupElements = 32, kBias = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int kScaleWordsAt[] = {0, 4, 8, 12};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    SixBitScales(words, scale, offset);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    const Bytes fifth = Bytes::Load(block, 16).Bits(run - 4, 16);
    return Bytes::Load(block, 48 + 32 * (run / 2)).Bits(4 * (run % 2), 15) | fifth;
  }
};

// 128 bytes of low nibbles | 64 bytes of high two bits | 16 signed scales | f16 d. In each half,
// runs 0 and 1 are the low and runs 2 and 3 the high nibbles of 64 bytes; the 32 bytes of high bits
// serve run r at bit 2r.
struct DecodeQ6_K {
  static constexpr TensorType kType = TensorType::kQ6_K;
  static constexpr int kBlockElements = 256, kBlockBytes = 210;
  static constexpr int kGroupElements = 16, kBias = 32;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {192, 196, 200, 204, 206};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[4], 16);
    for (int group = 0; group < 16; ++group) {
      // Two's complement: flipping the sign bit adds 128.
      const Word plus_128 = BitsAt(words[group / 4], 8 * (group % 4), 8) ^ 128;
      scale[group] = d * ToFloat(plus_128 - 128);
    }
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    const int half = run / 4, r = run % 4;
    const Bytes high = Bytes::Load(block, 128 + 32 * half).Bits(2 * r - 4, 0x30);
    return Bytes::Load(block, 64 * half + 32 * (r % 2)).Bits(4 * (r / 2), 15) | high;
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_UNPACK_K_INL_H_
