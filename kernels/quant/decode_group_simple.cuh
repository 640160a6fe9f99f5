// GroupDecoder of the formats with plain scales: blocks of 32 to 128, and the ternary formats.
// Layouts as told in unpack_simple-inl.h.
#ifndef KERNELS_QUANT_DECODE_GROUP_SIMPLE_CUH_
#define KERNELS_QUANT_DECODE_GROUP_SIMPLE_CUH_

#include "kernels/quant/grid_constants.h"
#include "kernels/quant/group32.cuh"

namespace gguf_offload::cuda {

// The low nibbles of 16 bytes, then the high ones.
template <int kAlignment>
GGUF_OFFLOAD_HOST_DEVICE void LoadNibbles(const uint8_t* bytes, uint32_t (&q)[8]) {
  uint32_t nibbles[4];
  LoadWords<kAlignment>(bytes, nibbles);
  GGUF_OFFLOAD_UNROLL
  for (int w = 0; w < 4; ++w) {
    q[w] = nibbles[w] & 0x0f0f0f0fu;
    q[w + 4] = (nibbles[w] >> 4) & 0x0f0f0f0fu;
  }
}

// Adds 16 to each element whose bit is set.
GGUF_OFFLOAD_HOST_DEVICE void AddFifthBits(uint32_t bits, uint32_t (&q)[8]) {
  GGUF_OFFLOAD_UNROLL
  for (int w = 0; w < 8; ++w) q[w] |= (((bits >> (4 * w)) & 15) * 0x02040810u) & 0x10101010u;
}

template <uint32_t kBias>
GGUF_OFFLOAD_HOST_DEVICE void SubtractBias(uint32_t (&q)[8]) {
  GGUF_OFFLOAD_UNROLL
  for (int w = 0; w < 8; ++w) q[w] = SubtractFromBytes<kBias>(q[w]);
}

// f16 d | 16 bytes of nibbles: first the low ones, then the high ones.
template <>
struct GroupDecoder<quant::TensorType::kQ4_0> {
  static constexpr int kBlockElements = 32, kBlockBytes = 18, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    uint32_t nibbles[4];
    LoadWords<kAlignment>(block + 2, nibbles);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 4; ++w) {  // 16 * (number - 8), see decode_group_k.cuh
      out.q[w] = (RotateLeft(nibbles[w], 4) & 0xf0f0f0f0u) ^ 0x80808080u;
      out.q[w + 4] = (nibbles[w] & 0xf0f0f0f0u) ^ 0x80808080u;
    }
    SetScale(Half(LoadU16<kAlignment>(block)) * (1.0f / 16), out);
  }
};

// f16 d | f16 m | nibbles; value = d * q + m.
template <>
struct GroupDecoder<quant::TensorType::kQ4_1> {
  static constexpr int kBlockElements = 32, kBlockBytes = 20, kAlignment = 4;
  static constexpr bool kHasOffset = true, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    LoadNibbles<kAlignment>(block + 4, out.q);
    const uint32_t d_m = LoadU32<kAlignment>(block);
    SetScaleAndOffset(Half(d_m & 0xffff), Half(d_m >> 16), out);
  }
};

// f16 d | 4 bytes of fifth bits | nibbles.
template <>
struct GroupDecoder<quant::TensorType::kQ5_0> {
  static constexpr int kBlockElements = 32, kBlockBytes = 22, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    LoadNibbles<kAlignment>(block + 6, out.q);
    AddFifthBits(LoadU32<kAlignment>(block + 2), out.q);
    SubtractBias<16>(out.q);
    SetScale(Half(LoadU16<kAlignment>(block)), out);
  }
};

// f16 d | f16 m | 4 bytes of fifth bits | nibbles; value = d * q + m.
template <>
struct GroupDecoder<quant::TensorType::kQ5_1> {
  static constexpr int kBlockElements = 32, kBlockBytes = 24, kAlignment = 8;
  static constexpr bool kHasOffset = true, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    uint32_t header[2];
    LoadWords<kAlignment>(block, header);
    LoadNibbles<kAlignment>(block + 8, out.q);
    AddFifthBits(header[1], out.q);
    SetScaleAndOffset(Half(header[0] & 0xffff), Half(header[0] >> 16), out);
  }
};

// f16 d | 32 signed bytes.
template <>
struct GroupDecoder<quant::TensorType::kQ8_0> {
  static constexpr int kBlockElements = 32, kBlockBytes = 34, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    LoadWords<kAlignment>(block + 2, out.q);
    SetScale(Half(LoadU16<kAlignment>(block)), out);
  }
};

// Entries of a table at the low nibbles of 16 bytes, then at the high ones.
template <int kAlignment>
GGUF_OFFLOAD_HOST_DEVICE void LoadTableEntries(const Table16& table, const uint8_t* bytes,
                                               uint32_t (&q)[8]) {
  uint32_t nibbles[4];
  LoadWords<kAlignment>(bytes, nibbles);
  GGUF_OFFLOAD_UNROLL
  for (int w = 0; w < 4; ++w) LookUpNibbles(table, nibbles[w], q[w], q[w + 4]);
}

// Half of the power of two that the E8M0 number `e` (OCP Microscaling Formats 1.0) means:
// 2^(e - 128). 255, NaN in that format, is 2^128 in GGUF.
GGUF_OFFLOAD_HOST_DEVICE float HalfOfE8M0(uint32_t e) {
  // The product of two normal numbers, as it may be subnormal itself.
  return FloatOfBits(((e >> 1) + 63) << 23) * FloatOfBits((((e + 1) >> 1) + 63) << 23);
}

// Half of an unsigned E4M3 number. Bit 7 does not count, and 127, NaN in that format, is 0 in GGUF.
GGUF_OFFLOAD_HOST_DEVICE float HalfOfE4M3(uint32_t byte) {
  const uint32_t bits = (byte & 127) == 127 ? 0 : byte & 127;
  // Moved to its place in a binary16 number it is 2^-8 of itself, subnormals too.
  return Half(bits << 7) * 128.0f;
}

// f16 d | nibbles as Q4_0, each an index into sixteen values.
template <>
struct GroupDecoder<quant::TensorType::kIQ4_NL> {
  static constexpr int kBlockElements = 32, kBlockBytes = 18, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    LoadTableEntries<kAlignment>(PackTable16(quant::kSignedValuesIq4Nl), block + 2, out.q);
    SetScale(Half(LoadU16<kAlignment>(block)), out);
  }
};

// E8M0 scale | nibbles as Q4_0, each an E2M1 number.
template <>
struct GroupDecoder<quant::TensorType::kMXFP4> {
  static constexpr int kBlockElements = 32, kBlockBytes = 17, kAlignment = 1;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int /*group*/, Group32& out) {
    LoadTableEntries<kAlignment>(PackTable16(quant::kSignedValuesFp4), block + 1, out.q);
    SetScale(HalfOfE8M0(block[0]), out);
  }
};

// Four E4M3 scales, one for 16 elements | for each of them, 8 bytes of nibbles: first the low ones,
// then the high ones.
template <>
struct GroupDecoder<quant::TensorType::kNVFP4> {
  static constexpr int kBlockElements = 64, kBlockBytes = 36, kAlignment = 4;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    constexpr Table16 kTable = PackTable16(quant::kSignedValuesFp4);
    uint32_t nibbles[4];
    LoadWords<kAlignment>(block + 4 + 16 * group, nibbles);
    LookUpNibbles(kTable, nibbles[0], out.q[0], out.q[2]);
    LookUpNibbles(kTable, nibbles[1], out.q[1], out.q[3]);
    LookUpNibbles(kTable, nibbles[2], out.q[4], out.q[6]);
    LookUpNibbles(kTable, nibbles[3], out.q[5], out.q[7]);
    const uint32_t scales = LoadU16<2>(block + 2 * group);
    SetScales(HalfOfE4M3(scales & 255), HalfOfE4M3(scales >> 8), out);
  }
};

// 48 bytes of five base-3 digits | 4 bytes of four | f16 d. A byte is the fraction digits/243 (of
// 256, rounded up). Digit 0 of 32 bytes is followed by digit 1 of all of them and so on; then come
// those of the next 16 bytes, and those of the last four.
template <>
struct GroupDecoder<quant::TensorType::kTQ1_0> {
  static constexpr int kBlockElements = 256, kBlockBytes = 54, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  // Digit `n` of four bytes: the fraction times 3^n loses the digits before, and times 3 carries
  // the next one out at the top. Even and odd bytes go apart, in 16 bits each.
  static GGUF_OFFLOAD_HOST_DEVICE uint32_t Digits(uint32_t bytes, int n) {
    const uint32_t power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
    const uint32_t even = (((bytes & 0x00ff00ffu) * power) & 0x00ff00ffu) * 3;
    const uint32_t odd = ((((bytes >> 8) & 0x00ff00ffu) * power) & 0x00ff00ffu) * 3;
    return ((even >> 8) & 0x00030003u) | (odd & 0x03000300u);
  }

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t first[4], second[4];
    LoadWords<kAlignment>(block + (group < 5 ? 0 : 32), first);
    // The last group ends with the four digits of the word at 48.
    LoadWords<kAlignment>(block + (group < 5 ? 16 : group < 7 ? 32 : 36), second);
    const int n = group < 5 ? group : 2 * (group - 5);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 4; ++w) {
      const int next = group < 5 ? group : group < 7 ? n + 1 : w;
      out.q[w] = Digits(first[w], n);
      out.q[w + 4] = Digits(group < 7 ? second[w] : second[3], next);
    }
    SubtractBias<1>(out.q);
    SetScale(Half(LoadU16<kAlignment>(block + 52)), out);
  }
};

// Two halves of 32 bytes, each four groups of two-bit numbers | f16 d.
template <>
struct GroupDecoder<quant::TensorType::kTQ2_0> {
  static constexpr int kBlockElements = 256, kBlockBytes = 66, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    LoadWords<kAlignment>(block + 32 * (group / 4), out.q);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) out.q[w] = (out.q[w] >> (2 * (group % 4))) & 0x03030303u;
    SubtractBias<1>(out.q);
    SetScale(Half(LoadU16<kAlignment>(block + 64)), out);
  }
};

// f16 d | 16 bytes of bits, lowest first: 1 means d, 0 means -d.
template <>
struct GroupDecoder<quant::TensorType::kQ1_0> {
  static constexpr int kBlockElements = 128, kBlockBytes = 18, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    const uint32_t bits = LoadU32<kAlignment>(block + 2 + 4 * group);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) out.q[w] = ~MaskOfTopBits(BitsToTopBits(bits, w)) | 0x01010101u;
    SetScale(Half(LoadU16<kAlignment>(block)), out);
  }
};

// f16 d | 16 bytes of two-bit numbers, lowest bits first; value = d * (q - 1).
template <>
struct GroupDecoder<quant::TensorType::kQ2_0> {
  static constexpr int kBlockElements = 64, kBlockBytes = 18, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t bits[2];
    LoadWords<kAlignment>(block + 2 + 8 * group, bits);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      // A byte's nibbles go apart, then the halves of each.
      const uint32_t byte = BitsAt(bits[w / 4], 8 * (w % 4), 8);
      const uint32_t nibbles = (byte | byte << 12) & 0x000f000fu;
      out.q[w] = (nibbles | nibbles << 6) & 0x03030303u;
    }
    SubtractBias<1>(out.q);
    SetScale(Half(LoadU16<kAlignment>(block)), out);
  }
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DECODE_GROUP_SIMPLE_CUH_
