// Decoders of the formats with plain scales: blocks of 32 to 128, and the ternary formats.
// Compiled once a SIMD target.
//
// Each decoder has the constants of its format and these functions of one block:
//   Scales: scale and, if the format has them, offset of each group, from the 32-bit words at
//     kScaleWordsAt of the block; of one row, or of sixteen at once (see words-inl.h);
//   Run: the bytes u of elements 32 * run on; if it is a template, of one row or of two at once
//     (see bytes-inl.h);
//   Values, instead of Run where elements do not come in such runs: all bytes u.
// Layouts follow github.com/ggml-org/ggml, src/ggml-common.h. They are told below as what follows
// what in a block; "f16" is a binary16 number.
#if defined(KERNELS_QUANT_UNPACK_SIMPLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_UNPACK_SIMPLE_INL_H_
#undef KERNELS_QUANT_UNPACK_SIMPLE_INL_H_
#else
#define KERNELS_QUANT_UNPACK_SIMPLE_INL_H_
#endif

#include "kernels/quant/bytes-inl.h"
#include "kernels/quant/format.h"
#include "kernels/quant/grids.h"
#include "kernels/quant/words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// f16 d | 16 bytes of nibbles: element j is the low nibble of byte j, element 16 + j the high one.
struct DecodeQ4_0 {
  static constexpr TensorType kType = TensorType::kQ4_0;
  static constexpr int kBlockElements = 32, kBlockBytes = 18;
  static constexpr int kGroupElements = 32, kBias = 8;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 2);
  }
};

// f16 d | f16 m | nibbles as Q4_0; value = d * q + m.
struct DecodeQ4_1 {
  static constexpr TensorType kType = TensorType::kQ4_1;
  static constexpr int kBlockElements = 32, kBlockBytes = 20;
  static constexpr int kGroupElements = 32, kBias = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
    offset[0] = HalfAt(words[0], 16);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 4);
  }
};

// f16 d | 4 bytes of fifth bits, bit j that of element j | nibbles as Q4_0.
struct DecodeQ5_0 {
  static constexpr TensorType kType = TensorType::kQ5_0;
  static constexpr int kBlockElements = 32, kBlockBytes = 22;
  static constexpr int kGroupElements = 32, kBias = 16;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 6) | Bytes::LoadBits(block, 2, 16);
  }
};

// f16 d | f16 m | 4 bytes of fifth bits | nibbles; value = d * q + m.
struct DecodeQ5_1 {
  static constexpr TensorType kType = TensorType::kQ5_1;
  static constexpr int kBlockElements = 32, kBlockBytes = 24;
  static constexpr int kGroupElements = 32, kBias = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
    offset[0] = HalfAt(words[0], 16);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 8) | Bytes::LoadBits(block, 4, 16);
  }
};

// f16 d | 32 signed bytes.
struct DecodeQ8_0 {
  static constexpr TensorType kType = TensorType::kQ8_0;
  static constexpr int kBlockElements = 32, kBlockBytes = 34;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::Load(block, 2) ^ 128;
  }
};

// f16 d | nibbles as Q4_0, each an index into sixteen values.
struct DecodeIq4Nl {
  static constexpr TensorType kType = TensorType::kIQ4_NL;
  static constexpr int kBlockElements = 32, kBlockBytes = 18;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfAt(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 2).LookUp(kValuesIq4Nl.data());
  }
};

// E8M0 scale | nibbles as Q4_0, each an E2M1 number (OCP Microscaling Formats 1.0).
struct DecodeMxfp4 {
  static constexpr TensorType kType = TensorType::kMXFP4;
  static constexpr int kBlockElements = 32, kBlockBytes = 17;
  static constexpr int kGroupElements = 32, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = HalfOfE8M0At(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibbles(block, 1).LookUp(kValuesFp4.data());
  }
};

// Four E4M3 scales, one a group of 16 | for each group, 8 bytes of nibbles: low ones first, then
// high ones.
struct DecodeNvfp4 {
  static constexpr TensorType kType = TensorType::kNVFP4;
  static constexpr int kBlockElements = 64, kBlockBytes = 36;
  static constexpr int kGroupElements = 16, kBias = 128;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    for (int group = 0; group < 4; ++group) {
      scale[group] = HalfOfE4M3At(words[0], 8 * group);
    }
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadNibblesBy8(block, 4 + 16 * run).LookUp(kValuesFp4.data());
  }
};

// 48 bytes of five base-3 digits | 4 bytes of four | f16 d. A byte is the fraction digits/243 (of
// 256, rounded up), so that multiplying by 3 carries the next digit out at the top.
struct DecodeTq1_0 {
  static constexpr TensorType kType = TensorType::kTQ1_0;
  static constexpr int kBlockElements = 256, kBlockBytes = 54;
  static constexpr int kGroupElements = 32, kBias = 1;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {50};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 16);
    for (int group = 0; group < 8; ++group) scale[group] = d;
  }

  // Digit n of each of `bytes` bytes goes to u[n * bytes ...]; returns the end of u.
  static HWY_INLINE uint8_t* Digits(const uint8_t* HWY_RESTRICT packed, size_t bytes, int digits,
                                    uint8_t* HWY_RESTRICT u) {
    constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
    for (int n = 0; n < digits; ++n) {
      for (size_t i = 0; i < bytes; ++i) {
        const uint8_t fraction = static_cast<uint8_t>(packed[i] * kPowers[n]);
        *u++ = static_cast<uint8_t>((fraction * 3) >> 8);
      }
    }
    return u;
  }

  static HWY_INLINE void Values(const uint8_t* block, uint8_t* u) {
    u = Digits(block, 32, 5, u);
    u = Digits(block + 32, 16, 5, u);
    Digits(block + 48, 4, 4, u);
  }
};

// Two halves of 32 bytes, each four runs of two-bit numbers | f16 d.
struct DecodeTq2_0 {
  static constexpr TensorType kType = TensorType::kTQ2_0;
  static constexpr int kBlockElements = 256, kBlockBytes = 66;
  static constexpr int kGroupElements = 32, kBias = 1;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {62};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 16);
    for (int group = 0; group < 8; ++group) scale[group] = d;
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::Load(block, 32 * (run / 4)).Bits(2 * (run % 4), 3);
  }
};

// f16 d | 16 bytes of bits, lowest first: 1 means d, 0 means -d.
struct DecodeQ1_0 {
  static constexpr TensorType kType = TensorType::kQ1_0;
  static constexpr int kBlockElements = 128, kBlockBytes = 18;
  static constexpr int kGroupElements = 32, kBias = 1;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    const FloatOf<Word> d = HalfAt(words[0], 0);
    for (int group = 0; group < 4; ++group) scale[group] = d;
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadBits(block, 2 + 4 * run, 2);
  }
};

// f16 d | 16 bytes of two-bit numbers, lowest bits first; value = d * (q - 1).
struct DecodeQ2_0 {
  static constexpr TensorType kType = TensorType::kQ2_0;
  static constexpr int kBlockElements = 64, kBlockBytes = 18;
  static constexpr int kGroupElements = 32, kBias = 1;
  static constexpr bool kHasOffset = false;
  static constexpr int kScaleWordsAt[] = {0};

  template <typename Word>
  static HWY_INLINE void Scales(const Word* words, FloatOf<Word>* scale, FloatOf<Word>* offset) {
    scale[0] = scale[1] = HalfAt(words[0], 0);
  }

  template <typename Bytes>
  static HWY_INLINE Bytes Run(typename Bytes::Source block, int run) {
    return Bytes::LoadBitPairs(block, 2 + 8 * run);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_UNPACK_SIMPLE_INL_H_
