// Decoders of the IQ formats of 256: values are entries of constant grids, with signs or shifts.
// Compiled once a SIMD target.
//
// The decoders are as in unpack_simple-inl.h. All but IQ1 have bias 128: u is 128 + signed value.
#if defined(KERNELS_QUANT_UNPACK_IQ_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_UNPACK_IQ_INL_H_
#undef KERNELS_QUANT_UNPACK_IQ_INL_H_
#else
#define KERNELS_QUANT_UNPACK_IQ_INL_H_
#endif

#include "kernels/quant/bytes-inl.h"
#include "kernels/quant/format.h"
#include "kernels/quant/grids.h"
#include "kernels/quant/words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// Four times seven sign bits to 32: in each eight the number of set bits is even.
HWY_INLINE uint32_t ExpandSigns(uint32_t packed) {
  const uint32_t stored = (packed & 0x7f) | ((packed << 1) & 0x7f00) | ((packed << 2) & 0x7f0000) |
                          ((packed << 3) & 0x7f000000);
  uint32_t parity = stored ^ ((stored >> 4) & 0x0f0f0f0f);
  parity ^= (parity >> 2) & 0x03030303;
  parity ^= (parity >> 1) & 0x01010101;
  return stored | ((parity & 0x01010101) << 7);
}

// f16 d | for each group of 32: four bytes of grid indices, then a word of four times seven sign
// bits and, on top, a four-bit scale.
struct DecodeIq2Xxs {
  static constexpr TensorType kType = TensorType::kIQ2_XXS;
  static constexpr int kBlockElements = 256, kBlockBytes = 66;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 6, 14, 22, 30, 38, 46, 54, 62};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 8; ++group) {
      scale[group] = d * (0.5f + ToFloat(BitsAt(words[1 + group], 28, 4))) * 0.25f;
    }
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint8_t* indices = block + 2 + 8 * run;
    return Bytes32::FromWords(kGridIq2Xxs[indices[0]], kGridIq2Xxs[indices[1]],
                              kGridIq2Xxs[indices[2]], kGridIq2Xxs[indices[3]])
        .WithSigns(ExpandSigns(LoadAs<uint32_t>(indices + 4)));
  }
};

// The scales of IQ2_XS and IQ2_S: d, then a nibble for each group of 16.
template <typename Word>
HWY_INLINE void NibbleScales(const Word* words, FloatOf<Word>* scale) {
  const FloatOf<Word> d = HalfAt(words[0], 0);
  for (int group = 0; group < 16; ++group) {
    const Word nibble = BitsAt(words[1 + group / 8], 4 * (group % 8), 4);
    scale[group] = d * (0.5f + ToFloat(nibble)) * 0.25f;
  }
}

// f16 d | 32 words of a nine-bit grid index and seven sign bits | 8 bytes of scales.
struct DecodeIq2Xs {
  static constexpr TensorType kType = TensorType::kIQ2_XS;
  static constexpr int kBlockElements = 256, kBlockBytes = 74;
  static constexpr int kGroupElements = 16, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 66, 70};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    NibbleScales(words, scale);
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint64_t packed = LoadAs<uint64_t>(block + 2 + 8 * run);
    const uint64_t signs = ((packed >> 9) & 0x7f) | ((packed >> 18) & 0x3f80) |
                           ((packed >> 27) & 0x1fc000) | ((packed >> 36) & 0xfe00000);
    return Bytes32::FromWords(kGridIq2Xs[packed & 511], kGridIq2Xs[(packed >> 16) & 511],
                              kGridIq2Xs[(packed >> 32) & 511], kGridIq2Xs[(packed >> 48) & 511])
        .WithSigns(ExpandSigns(static_cast<uint32_t>(signs)));
  }
};

// f16 d | 32 bytes of grid indices | 32 bytes of signs | 8 bytes of the indices' two high bits |
// 8 bytes of scales.
struct DecodeIq2S {
  static constexpr TensorType kType = TensorType::kIQ2_S;
  static constexpr int kBlockElements = 256, kBlockBytes = 82;
  static constexpr int kGroupElements = 16, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 74, 78};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    NibbleScales(words, scale);
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint8_t* indices = block + 2 + 4 * run;
    const uint32_t high = block[66 + run];
    return Bytes32::FromWords(kGridIq2S[indices[0] | ((high << 8) & 0x300)],
                              kGridIq2S[indices[1] | ((high << 6) & 0x300)],
                              kGridIq2S[indices[2] | ((high << 4) & 0x300)],
                              kGridIq2S[indices[3] | ((high << 2) & 0x300)])
        .WithSigns(LoadAs<uint32_t>(block + 34 + 4 * run));
  }
};

// f16 d | 64 bytes of grid indices, four values each | for each group of 32 a word of four times
// seven sign bits and, on top, a four-bit scale.
struct DecodeIq3Xxs {
  static constexpr TensorType kType = TensorType::kIQ3_XXS;
  static constexpr int kBlockElements = 256, kBlockBytes = 98;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 66, 70, 74, 78, 82, 86, 90, 94};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 8; ++group) {
      scale[group] = d * (0.5f + ToFloat(BitsAt(words[1 + group], 28, 4))) * 0.5f;
    }
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint8_t* indices = block + 2 + 8 * run;
    const auto eight = [=](int i) {
      return kGridIq3Xxs[indices[i]] | static_cast<uint64_t>(kGridIq3Xxs[indices[i + 1]]) << 32;
    };
    return Bytes32::FromWords(eight(0), eight(2), eight(4), eight(6))
        .WithSigns(ExpandSigns(LoadAs<uint32_t>(block + 66 + 4 * run)));
  }
};

// f16 d | 64 bytes of grid indices | 8 bytes of their ninth bits | 32 bytes of signs | 4 bytes of
// scales, a nibble a group.
struct DecodeIq3S {
  static constexpr TensorType kType = TensorType::kIQ3_S;
  static constexpr int kBlockElements = 256, kBlockBytes = 110;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 106};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 8; ++group) {
      scale[group] = d * (1.0f + 2.0f * ToFloat(BitsAt(words[1], 4 * group, 4)));
    }
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint8_t* indices = block + 2 + 8 * run;
    const uint32_t ninth = block[66 + run];
    const auto eight = [=](int i) {
      const uint32_t first = indices[i] | ((ninth >> i) & 1) << 8;
      const uint32_t second = indices[i + 1] | ((ninth >> (i + 1)) & 1) << 8;
      return kGridIq3S[first] | static_cast<uint64_t>(kGridIq3S[second]) << 32;
    };
    return Bytes32::FromWords(eight(0), eight(2), eight(4), eight(6))
        .WithSigns(LoadAs<uint32_t>(block + 74 + 4 * run));
  }
};

// The IQ1 formats: value = d * s * (g + delta), g of -1, 0, 1 and delta 1/8 or -1/8. In eighths
// that is the integer 8 * g +- 1, and with a bias of 9 it is u = 8 * (g + 1) + (0 or 2).
HWY_INLINE uint64_t EightOfIq1(uint32_t index, bool negative_delta) {
  return kGridIq1S[index] + (negative_delta ? 0 : 0x0202020202020202);
}

// f16 d | 32 bytes of grid indices | 8 words, one a group of 32: four times three high bits of the
// indices, a three-bit scale, and the sign of delta.
struct DecodeIq1S {
  static constexpr TensorType kType = TensorType::kIQ1_S;
  static constexpr int kBlockElements = 256, kBlockBytes = 50;
  static constexpr int kGroupElements = 32, kBias = 9;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 34, 38, 42, 46};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 8; ++group) {
      const Word three_bits = BitsAt(words[1 + group / 2], 16 * (group % 2) + 12, 3);
      scale[group] = d * (1.0f + 2.0f * ToFloat(three_bits)) * 0.125f;
    }
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint32_t packed = LoadAs<uint16_t>(block + 34 + 2 * run);
    const auto eight = [=](int i) {
      const uint32_t index = block[2 + 4 * run + i] | ((packed >> (3 * i)) & 7) << 8;
      return EightOfIq1(index, (packed & 0x8000) != 0);
    };
    return Bytes32::FromWords(eight(0), eight(1), eight(2), eight(3));
  }
};

// 32 bytes of grid indices | 16 bytes, a nibble for eight elements: three high bits of the index
// and the sign of delta | 4 words: four three-bit scales, one a group of 16, and above them in the
// top nibbles the four pieces of the f16 d.
struct DecodeIq1M {
  static constexpr TensorType kType = TensorType::kIQ1_M;
  static constexpr int kBlockElements = 256, kBlockBytes = 56;
  static constexpr int kGroupElements = 16, kBias = 9;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {48, 52};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const Word half = BitsAt(words[0], 12, 4) | BitsAt(words[0], 28, 4) << 4 |
                      BitsAt(words[1], 12, 4) << 8 | BitsAt(words[1], 28, 4) << 12;
    const FloatOf<Word> d = HalfAt(half, 0);
    for (int group = 0; group < 16; ++group) {
      const int bit = 16 * (group / 4 % 2) + 3 * (group % 4);
      scale[group] = d * (1.0f + 2.0f * ToFloat(BitsAt(words[group / 8], bit, 3))) * 0.125f;
    }
  }

  static HWY_INLINE Bytes32 Run(const uint8_t* block, int run) {
    const uint32_t nibbles = LoadAs<uint16_t>(block + 32 + 2 * run);
    const auto eight = [=](int i) {
      const uint32_t nibble = (nibbles >> (4 * i)) & 15;
      return EightOfIq1(block[4 * run + i] | (nibble & 7) << 8, (nibble & 8) != 0);
    };
    return Bytes32::FromWords(eight(0), eight(1), eight(2), eight(3));
  }
};

// f16 d | word of the scales' two high bits | 4 bytes of their low nibbles | for each group of 32,
// 16 bytes of nibbles, as IQ4_NL. Scales are six bits minus 32.
struct DecodeIq4Xs {
  static constexpr TensorType kType = TensorType::kIQ4_XS;
  static constexpr int kBlockElements = 256, kBlockBytes = 136;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0, 4};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 8; ++group) {
      const Word low = BitsAt(words[1], 4 * group, 4);
      const Word high = BitsAt(words[0], 16 + 2 * group, 2);
      scale[group] = d * ToFloat((low | high << 4) - 32);
    }
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 8 + 16 * run).LookUp(kValuesIq4Nl.data());
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_UNPACK_IQ_INL_H_
