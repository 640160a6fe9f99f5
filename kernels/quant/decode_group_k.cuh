// GroupDecoder of the K formats: blocks of 256 whose groups' scales are quantized themselves.
// Layouts as told in unpack_k-inl.h.
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
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      const uint32_t low = (out.q[w] >> (2 * (group % 4))) & 0x03030303u;
      out.q[w] = SubtractFromBytes<4>(low | ((third[w] >> group) & 0x01010101u) << 2);
    }
    // Both scales at once, one in each byte.
    const uint32_t low = (LoadU16<kAlignment>(block + 96 + 2 * (group % 4)) >> (4 * (group / 4)));
    const uint32_t high = LoadU16<kAlignment>(block + 104 + 2 * (group % 2)) >> (2 * (group / 2));
    const uint32_t scales = (low & 0x0f0fu) | (high & 0x0303u) << 4;
    const float d = Half(LoadU16<kAlignment>(block + 108));
    SetScales(d * SignedFloat((scales & 255) - 32), d * SignedFloat((scales >> 8) - 32), out);
  }
};

// The scale and the minimum of group `group` of Q4_K and Q5_K, from the block's first 16 bytes.
GGUF_OFFLOAD_HOST_DEVICE void SixBitScale(const uint8_t* block, int group, Group32& out) {
  uint32_t header[4];
  LoadWords<8>(block, header);
  const int byte = 8 * (group % 4);
  const uint32_t first = header[1] >> byte, second = header[2] >> byte, third = header[3] >> byte;
  const uint32_t scale = group < 4 ? first & 63 : (third & 15) | ((first >> 2) & 0x30);
  const uint32_t minimum = group < 4 ? second & 63 : ((third >> 4) & 15) | ((second >> 2) & 0x30);
  SetScaleAndOffset(Half(header[0] & 0xffff) * SignedFloat(scale),
                    -(Half(header[0] >> 16) * SignedFloat(minimum)), out);
}

// Scales | 128 bytes of nibbles: each 32 bytes are two groups.
template <>
struct GroupDecoder<quant::TensorType::kQ4_K> {
  static constexpr int kBlockElements = 256, kBlockBytes = 144, kAlignment = 8;
  static constexpr bool kHasOffset = true, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    LoadWords<kAlignment>(block + 16 + 32 * (group / 2), out.q);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) out.q[w] = (out.q[w] >> (4 * (group % 2))) & 0x0f0f0f0fu;
    SixBitScale(block, group, out);
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
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      const uint32_t low = (out.q[w] >> (4 * (group % 2))) & 0x0f0f0f0fu;
      out.q[w] = low | ((fifth[w] >> group) & 0x01010101u) << 4;
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
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      const uint32_t low = (out.q[w] >> (4 * (run / 2))) & 0x0f0f0f0fu;
      out.q[w] = SubtractFromBytes<32>(low | ((high[w] >> (2 * run)) & 0x03030303u) << 4);
    }
    const uint32_t scales = LoadU16<kAlignment>(block + 192 + 2 * group);
    const float d = Half(LoadU16<kAlignment>(block + 208));
    SetScales(d * static_cast<float>(static_cast<int8_t>(scales)),
              d * static_cast<float>(static_cast<int8_t>(scales >> 8)), out);
  }
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DECODE_GROUP_K_CUH_
