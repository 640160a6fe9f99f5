// GroupDecoder of the K formats: blocks of 256 whose groups' scales are quantized themselves.
// Layouts as told in unpack_k-inl.h.
//
// Products of a single column are bound by instructions, so bits are brought where they belong by
// one rotation (what comes from neighbours is masked away). Numbers with a bias stand at the top of
// their bytes, where flipping the top bit subtracts it: the bytes are then multiples of a power of
// two, and the scales so much smaller, which is exact.
#ifndef KERNELS_QUANT_DECODE_GROUP_K_CUH_
#define KERNELS_QUANT_DECODE_GROUP_K_CUH_

#include "kernels/quant/group32.cuh"

namespace gguf_offload::cuda {

// 16 bytes of (scale, minimum) nibbles | 64 bytes of two-bit numbers | f16 d | f16 dmin.
template <>
struct GroupDecoder<quant::TensorType::kQ2_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 84, kAlignment = 4;
  static constexpr bool kHasOffset = true, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    LoadWords<kAlignment>(block + 16 + 32 * (group / 4), out.q);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) out.q[w] = (out.q[w] >> (2 * (group % 4))) & 0x03030303u;
    const uint32_t scales = LoadU16<2>(block + 2 * group);
    const uint32_t d_dmin = LoadU32<kAlignment>(block + 80);
    const float d = Half(d_dmin & 0xffff), dmin = Half(d_dmin >> 16);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 2; ++i) {
      out.scale[i] = d * SignedFloat(BitsAt(scales, 8 * i, 4));
      out.offset[i] = -(dmin * SignedFloat(BitsAt(scales, 8 * i + 4, 4)));
    }
  }
};

// 32 bytes of third bits | 64 bytes of two-bit numbers | 12 bytes of scales | f16 d.
template <>
struct GroupDecoder<quant::TensorType::kQ3_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 110, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t third[8];
    LoadWords<kAlignment>(block, third);
    LoadWords<kAlignment>(block + 32 + 32 * (group / 4), out.q);
    const int low_to_5 = 5 - 2 * (group % 4), third_to_7 = 7 - group;
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {  // 32 * (number - 4)
      const uint32_t low = (RotateLeft(out.q[w], low_to_5) & 0x60606060u) ^ 0x80808080u;
      out.q[w] = low ^ (RotateLeft(third[w], third_to_7) & 0x80808080u);
    }
    // Both scales at once, one in each byte.
    const uint32_t low = (LoadU16<kAlignment>(block + 96 + 2 * (group % 4)) >> (4 * (group / 4)));
    const uint32_t high = LoadU16<kAlignment>(block + 104 + 2 * (group % 2)) >> (2 * (group / 2));
    const uint32_t scales = (low & 0x0f0fu) | (high & 0x0303u) << 4;
    const float d = Half(LoadU16<kAlignment>(block + 108)) * (1.0f / 32);
    SetScales(d * SignedFloat((scales & 255) - 32), d * SignedFloat((scales >> 8) - 32), out);
  }
};

// The scale and the minimum of group `group` of Q4_K and Q5_K, from the block's first 16 bytes: of
// the first four groups the low six bits of a byte; of the others the high two bits of the same
// bytes, above a nibble of the last four.
GGUF_OFFLOAD_HOST_DEVICE void SixBitScale(const uint8_t* block, int group, Group32& out) {
  uint32_t header[4];
  LoadWords<8>(block, header);
  const bool upper = group >= 4;
  const int byte = 8 * (group % 4), to_place = upper ? -byte - 2 : -byte;
  const uint32_t mask = upper ? 0x30u : 0x3fu, nibble = upper ? 0x0fu : 0u;
  const uint32_t scale =
      (RotateLeft(header[1], to_place) & mask) | (RotateLeft(header[3], -byte) & nibble);
  const uint32_t minimum =
      (RotateLeft(header[2], to_place) & mask) | (RotateLeft(header[3], -byte - 4) & nibble);
  SetScaleAndOffset(Half(header[0] & 0xffff) * SignedFloat(scale),
                    -(Half(header[0] >> 16) * SignedFloat(minimum)), out);
}

// Scales | 128 bytes of nibbles: each 32 bytes are two groups. High nibbles stay where they are, as
// sixteen times what they mean.
template <>
struct GroupDecoder<quant::TensorType::kQ4_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 144, kAlignment = 8;
  static constexpr bool kHasOffset = true, kTwoScales = false, kUnsigned = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    LoadWords<kAlignment>(block + 16 + 32 * (group / 2), out.q);
    const bool high = group % 2 == 1;
    const uint32_t mask = high ? 0xf0f0f0f0u : 0x0f0f0f0fu;
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) out.q[w] &= mask;
    SixBitScale(block, group, out);
    out.scale[0] *= high ? 1.0f / 16 : 1.0f;
    out.scale[1] = out.scale[0];
  }
};

// Scales | 32 bytes of fifth bits | nibbles as Q4_K.
template <>
struct GroupDecoder<quant::TensorType::kQ5_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 176, kAlignment = 8;
  static constexpr bool kHasOffset = true, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t fifth[8];
    LoadWords<kAlignment>(block + 16, fifth);
    LoadWords<kAlignment>(block + 48 + 32 * (group / 2), out.q);
    const int low_to_0 = -4 * (group % 2), fifth_to_4 = 4 - group;
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      const uint32_t low = RotateLeft(out.q[w], low_to_0) & 0x0f0f0f0fu;
      out.q[w] = low | (RotateLeft(fifth[w], fifth_to_4) & 0x10101010u);
    }
    SixBitScale(block, group, out);
  }
};

// 128 bytes of low nibbles | 64 bytes of high two bits | 16 signed scales | f16 d.
template <>
struct GroupDecoder<quant::TensorType::kQ6_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 210, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    const int half = group / 4, run = group % 4;
    uint32_t high[8];
    LoadWords<kAlignment>(block + 128 + 32 * half, high);
    LoadWords<kAlignment>(block + 64 * half + 32 * (run % 2), out.q);
    const int low_to_2 = 2 - 4 * (run / 2), high_to_6 = 6 - 2 * run;
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {  // 4 * (number - 32)
      const uint32_t low = (RotateLeft(out.q[w], low_to_2) & 0x3c3c3c3cu) ^ 0x80808080u;
      out.q[w] = low ^ (RotateLeft(high[w], high_to_6) & 0xc0c0c0c0u);
    }
    const uint32_t scales = LoadU16<kAlignment>(block + 192 + 2 * group);
    const float d = Half(LoadU16<kAlignment>(block + 208)) * (1.0f / 4);
    SetScales(d * static_cast<float>(static_cast<int8_t>(scales)),
              d * static_cast<float>(static_cast<int8_t>(scales >> 8)), out);
  }
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DECODE_GROUP_K_CUH_
