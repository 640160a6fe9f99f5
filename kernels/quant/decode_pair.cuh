// Two neighbouring groups of 32 at once, for the formats whose blocks are multiples of 16 bytes and
// whose two groups share bytes: the low and the high nibbles of the same 32. Layouts as told in
// unpack_k-inl.h.
#ifndef KERNELS_QUANT_DECODE_PAIR_CUH_
#define KERNELS_QUANT_DECODE_PAIR_CUH_

#include "kernels/quant/group32.cuh"

namespace gguf_offload::cuda {

// How the numbers of a pair are scaled: value = scale * number + offset, group by group.
struct PairScales {
  float scale[2];
  float offset[2];
};

// Decodes pair `pair` of a block (elements 64 * pair on).
//   static constexpr int kBlockBytes;  // of 256 elements
//   struct Raw;                        // what of the block the pair is in
//   static void Load(const uint8_t* block, int pair, Raw&);  // 16-byte aligned
//   static PairScales Scales(const Raw&, int pair);
//   static uint32_t Word(const Raw&, int pair, int group, int w);  // unsigned elements 4 * w on
template <quant::TensorType kType>
struct PairDecoder;

constexpr bool HasPairs(quant::TensorType type) {
  return type == quant::TensorType::kQ4_K || type == quant::TensorType::kQ5_K;
}

// The scales and minima of two neighbouring groups, bytes in the header as SixBitScale's.
// upper_factor: of the second group's numbers.
__device__ __forceinline__ PairScales SixBitScales(const uint4& header, int pair,
                                                   float upper_factor) {
  const int shift = 16 * (pair % 2);
  const uint32_t first = header.y >> shift, second = header.z >> shift, third = header.w >> shift;
  const bool upper = pair >= 2;
  const uint32_t scales = upper ? (third & 0x0f0fu) | (first >> 2 & 0x3030u) : first & 0x3f3fu;
  const uint32_t minima =
      upper ? (third >> 4 & 0x0f0fu) | (second >> 2 & 0x3030u) : second & 0x3f3fu;
  const float d = Half(header.x & 0xffff), d_minimum = -Half(header.x >> 16);
  return {{d * SignedFloat(scales & 255), d * upper_factor * SignedFloat(scales >> 8 & 255)},
          {d_minimum * SignedFloat(minima & 255), d_minimum * SignedFloat(minima >> 8 & 255)}};
}

__device__ __forceinline__ uint32_t WordOf(const uint4 (&vectors)[2], int w) {
  const uint4& v = vectors[w / 4];
  return w % 4 == 0 ? v.x : w % 4 == 1 ? v.y : w % 4 == 2 ? v.z : v.w;
}

// Weights are read once: they are the first to make room in the caches.
__device__ __forceinline__ uint4 LoadVector(const uint8_t* from) {
  return __ldcs(reinterpret_cast<const uint4*>(from));
}
__device__ __forceinline__ void LoadVectors(const uint8_t* from, uint4 (&vectors)[2]) {
  vectors[0] = LoadVector(from);
  vectors[1] = LoadVector(from + 16);
}

// Scales | 4 x 32 bytes of nibbles. High nibbles stay where they are, as sixteen times what they
// mean.
template <>
struct PairDecoder<quant::TensorType::kQ4_K> {
  static constexpr int kBlockBytes = 144;
  struct Raw {
    uint4 header;
    uint4 nibbles[2];
  };

  static __device__ __forceinline__ void Load(const uint8_t* block, int pair, Raw& raw) {
    raw.header = LoadVector(block);
    LoadVectors(block + 16 + 32 * pair, raw.nibbles);
  }
  static __device__ __forceinline__ PairScales Scales(const Raw& raw, int pair) {
    return SixBitScales(raw.header, pair, 1.0f / 16);
  }
  static __device__ __forceinline__ uint32_t Word(const Raw& raw, int, int group, int w) {
    return WordOf(raw.nibbles, w) & (group == 0 ? 0x0f0f0f0fu : 0xf0f0f0f0u);
  }
};

// Scales | 32 bytes of fifth bits, bit g those of group g | nibbles as Q4_K.
template <>
struct PairDecoder<quant::TensorType::kQ5_K> {
  static constexpr int kBlockBytes = 176;
  struct Raw {
    uint4 header;
    uint4 nibbles[2];
    uint4 fifth[2];
  };

  static __device__ __forceinline__ void Load(const uint8_t* block, int pair, Raw& raw) {
    raw.header = LoadVector(block);
    LoadVectors(block + 48 + 32 * pair, raw.nibbles);
    LoadVectors(block + 16, raw.fifth);
  }
  static __device__ __forceinline__ PairScales Scales(const Raw& raw, int pair) {
    return SixBitScales(raw.header, pair, 1.0f);
  }
  static __device__ __forceinline__ uint32_t Word(const Raw& raw, int pair, int group, int w) {
    const uint32_t low = WordOf(raw.nibbles, w) >> (4 * group) & 0x0f0f0f0fu;
    return low | (RotateLeft(WordOf(raw.fifth, w), 4 - 2 * pair - group) & 0x10101010u);
  }
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DECODE_PAIR_CUH_
