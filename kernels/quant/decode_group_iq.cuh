// GroupDecoder of the IQ formats of 256: values are entries of constant grids, with signs or
// shifts. Layouts as told in unpack_iq-inl.h.
//
// The CPU's tables have a byte a value. Here an entry is 16 bits: a small table stays in few cache
// lines, which is what a warp with 32 different indices pays for, and a permutation turns the
// indices of levels that an entry holds into bytes.
#ifndef KERNELS_QUANT_DECODE_GROUP_IQ_CUH_
#define KERNELS_QUANT_DECODE_GROUP_IQ_CUH_

#include <array>
#include <cstddef>

#include "kernels/quant/decode_group_simple.cuh"
#include "kernels/quant/grid_constants.h"
#include "kernels/quant/group32.cuh"

namespace gguf_offload::cuda {

template <size_t kEntries>
struct Grid {
  uint16_t entries[kEntries];
};

// Eight values of two bits: in nibble n value n and, above it, value n + 4.
template <size_t kEntries>
constexpr Grid<kEntries> GridOfEight(const std::array<uint16_t, kEntries>& packed) {
  Grid<kEntries> grid{};
  for (size_t i = 0; i < kEntries; ++i) {
    uint32_t entry = 0;
    for (int n = 0; n < 4; ++n) {
      entry |= ((packed[i] >> (2 * n)) & 3u) << (4 * n);
      entry |= ((packed[i] >> (2 * n + 8)) & 3u) << (4 * n + 2);
    }
    grid.entries[i] = static_cast<uint16_t>(entry);
  }
  return grid;
}

// Four values of three bits, value n in nibble n.
template <size_t kEntries>
constexpr Grid<kEntries> GridOfFour(const std::array<uint16_t, kEntries>& packed) {
  Grid<kEntries> grid{};
  for (size_t i = 0; i < kEntries; ++i) {
    uint32_t entry = 0;
    for (int n = 0; n < 4; ++n) entry |= ((packed[i] >> (3 * n)) & 7u) << (4 * n);
    grid.entries[i] = static_cast<uint16_t>(entry);
  }
  return grid;
}

// A constant for both sides, and a function that reads it on the side where it runs.
#ifdef __CUDA_ARCH__
#define GGUF_OFFLOAD_READ_GRID(name, index) kDevice##name.entries[index]
#else
#define GGUF_OFFLOAD_READ_GRID(name, index) k##name.entries[index]
#endif
#ifdef __CUDACC__
#define GGUF_OFFLOAD_DEVICE_GRID(name) \
  static __device__ const decltype(k##name) kDevice##name = k##name;
#else
#define GGUF_OFFLOAD_DEVICE_GRID(name)
#endif
#define GGUF_OFFLOAD_GRID(name, make, packed)                  \
  inline constexpr auto k##name = make(packed);                \
  GGUF_OFFLOAD_DEVICE_GRID(name)                               \
  GGUF_OFFLOAD_HOST_DEVICE uint32_t name##At(uint32_t index) { \
    return GGUF_OFFLOAD_READ_GRID(name, index);                \
  }

GGUF_OFFLOAD_GRID(GridIq2Xxs, GridOfEight, quant::kPackedIq2Xxs)
GGUF_OFFLOAD_GRID(GridIq2Xs, GridOfEight, quant::kPackedIq2Xs)
GGUF_OFFLOAD_GRID(GridIq2S, GridOfEight, quant::kPackedIq2S)
GGUF_OFFLOAD_GRID(GridIq3Xxs, GridOfFour, quant::kPackedIq3Xxs)
GGUF_OFFLOAD_GRID(GridIq3S, GridOfFour, quant::kPackedIq3S)
GGUF_OFFLOAD_GRID(GridIq1S, GridOfEight, quant::kPackedIq1S)

// Levels 4 * word to 4 * word + 3 as bytes; 0 where there are fewer.
template <size_t kLevels>
constexpr uint32_t PackLevels(const std::array<uint8_t, kLevels>& levels, size_t word) {
  uint32_t packed = 0;
  for (size_t i = 0; i < 4 && 4 * word + i < kLevels; ++i) {
    packed |= static_cast<uint32_t>(levels[4 * word + i]) << (8 * i);
  }
  return packed;
}

// The bytes of an entry of eight, `levels` being those of its indices.
GGUF_OFFLOAD_HOST_DEVICE void ExpandEight(uint32_t entry, uint32_t levels, uint32_t& first,
                                          uint32_t& second) {
  first = PermuteBytes(levels, 0, entry & 0x3333u);
  second = PermuteBytes(levels, 0, (entry >> 2) & 0x3333u);
}

// Negates the elements whose bit is set.
GGUF_OFFLOAD_HOST_DEVICE void ApplySigns(uint32_t signs, uint32_t (&q)[8]) {
  GGUF_OFFLOAD_UNROLL
  for (int w = 0; w < 8; ++w) q[w] = NegateBytes(q[w], MaskOfTopBits(BitsToTopBits(signs, w)));
}

// Seven sign bits in each byte to eight: the number of set bits is even.
GGUF_OFFLOAD_HOST_DEVICE uint32_t AddEighthSigns(uint32_t stored) {
  // Bit 0 of each byte becomes the parity; what comes from the next byte does not reach it.
  uint32_t parity = stored ^ (stored >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return stored | ((parity << 7) & 0x80808080u);
}

// The four times seven sign bits that the low 28 bits hold.
GGUF_OFFLOAD_HOST_DEVICE uint32_t SignsOf28Bits(uint32_t packed) {
  return AddEighthSigns((packed & 0x7fu) | ((packed << 1) & 0x7f00u) | ((packed << 2) & 0x7f0000u) |
                        ((packed << 3) & 0x7f000000u));
}

inline constexpr uint32_t kIq2LevelBytes = PackLevels(quant::kLevelsIq2, 0);

// The scales of IQ2_XS and IQ2_S: two nibbles.
GGUF_OFFLOAD_HOST_DEVICE void SetNibbleScales(float d, uint32_t nibbles, Group32& out) {
  SetScales(d * (0.5f + SignedFloat(nibbles & 15)) * 0.25f,
            d * (0.5f + SignedFloat(nibbles >> 4)) * 0.25f, out);
}

// f16 d | for each group four bytes of grid indices, then a word of four times seven sign bits and,
// on top, a four-bit scale.
template <>
struct GroupDecoder<quant::TensorType::kIQ2_XXS> {
  static constexpr int kBlockElements = 256, kBlockBytes = 66, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t words[2];  // indices; signs and scale
    LoadWords<kAlignment>(block + 2 + 8 * group, words);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 4; ++i) {
      ExpandEight(GridIq2XxsAt(BitsAt(words[0], 8 * i, 8)), kIq2LevelBytes, out.q[2 * i],
                  out.q[2 * i + 1]);
    }
    ApplySigns(SignsOf28Bits(words[1]), out.q);
    const float d = Half(LoadU16<kAlignment>(block));
    SetScale(d * (0.5f + SignedFloat(words[1] >> 28)) * 0.25f, out);
  }
};

// f16 d | 32 words of a nine-bit grid index and seven sign bits | 8 bytes of scales.
template <>
struct GroupDecoder<quant::TensorType::kIQ2_XS> {
  static constexpr int kBlockElements = 256, kBlockBytes = 74, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t words[2];
    LoadWords<kAlignment>(block + 2 + 8 * group, words);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 4; ++i) {
      ExpandEight(GridIq2XsAt(BitsAt(words[i / 2], 16 * (i % 2), 9)), kIq2LevelBytes, out.q[2 * i],
                  out.q[2 * i + 1]);
    }
    const uint32_t high_bytes = PermuteBytes(words[0], words[1], 0x7531);
    ApplySigns(AddEighthSigns((high_bytes >> 1) & 0x7f7f7f7fu), out.q);
    SetNibbleScales(Half(LoadU16<kAlignment>(block)), block[66 + group], out);
  }
};

// f16 d | 32 bytes of grid indices | 32 bytes of signs | 8 bytes of the indices' two high bits |
// 8 bytes of scales.
template <>
struct GroupDecoder<quant::TensorType::kIQ2_S> {
  static constexpr int kBlockElements = 256, kBlockBytes = 82, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    const uint32_t indices = LoadU32<kAlignment>(block + 2 + 4 * group);
    const uint32_t high = block[66 + group];
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t index = BitsAt(indices, 8 * i, 8) | BitsAt(high, 2 * i, 2) << 8;
      ExpandEight(GridIq2SAt(index), kIq2LevelBytes, out.q[2 * i], out.q[2 * i + 1]);
    }
    ApplySigns(LoadU32<kAlignment>(block + 34 + 4 * group), out.q);
    SetNibbleScales(Half(LoadU16<kAlignment>(block)), block[74 + group], out);
  }
};

// f16 d | 64 bytes of grid indices, four values each | for each group a word of four times seven
// sign bits and, on top, a four-bit scale.
template <>
struct GroupDecoder<quant::TensorType::kIQ3_XXS> {
  static constexpr int kBlockElements = 256, kBlockBytes = 98, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t indices[2];
    LoadWords<kAlignment>(block + 2 + 8 * group, indices);
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      out.q[w] =
          PermuteBytes(PackLevels(quant::kLevelsIq3Xxs, 0), PackLevels(quant::kLevelsIq3Xxs, 1),
                       GridIq3XxsAt(BitsAt(indices[w / 4], 8 * (w % 4), 8)));
    }
    const uint32_t signs_and_scale = LoadU32<kAlignment>(block + 66 + 4 * group);
    ApplySigns(SignsOf28Bits(signs_and_scale), out.q);
    const float d = Half(LoadU16<kAlignment>(block));
    SetScale(d * (0.5f + SignedFloat(signs_and_scale >> 28)) * 0.5f, out);
  }
};

// f16 d | 64 bytes of grid indices | 8 bytes of their ninth bits | 32 bytes of signs | 4 bytes of
// scales, a nibble a group.
template <>
struct GroupDecoder<quant::TensorType::kIQ3_S> {
  static constexpr int kBlockElements = 256, kBlockBytes = 110, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t indices[2];
    LoadWords<kAlignment>(block + 2 + 8 * group, indices);
    const uint32_t ninth = block[66 + group];
    GGUF_OFFLOAD_UNROLL
    for (int w = 0; w < 8; ++w) {
      const uint32_t index = BitsAt(indices[w / 4], 8 * (w % 4), 8) | BitsAt(ninth, w, 1) << 8;
      out.q[w] = PermuteBytes(PackLevels(quant::kLevelsIq3S, 0), PackLevels(quant::kLevelsIq3S, 1),
                              GridIq3SAt(index));
    }
    ApplySigns(LoadU32<kAlignment>(block + 74 + 4 * group), out.q);
    const uint32_t scale = BitsAt(block[106 + group / 2], 4 * (group % 2), 4);
    SetScale(Half(LoadU16<kAlignment>(block)) * (1.0f + 2.0f * SignedFloat(scale)), out);
  }
};

// The IQ1 formats: value = d * s * (g + delta), g of -1, 0, 1 and delta 1/8 or -1/8. In eighths
// that is the integer 8 * g +- 1.
inline constexpr uint32_t kIq1LevelBytes = 0x000901f9, kIq1LevelBytesOfNegativeDelta = 0x0007fff7;

GGUF_OFFLOAD_HOST_DEVICE void ExpandIq1(uint32_t index, bool negative_delta, uint32_t& first,
                                        uint32_t& second) {
  ExpandEight(GridIq1SAt(index), negative_delta ? kIq1LevelBytesOfNegativeDelta : kIq1LevelBytes,
              first, second);
}

// f16 d | 32 bytes of grid indices | 8 words, one a group: four times three high bits of the
// indices, a three-bit scale, and the sign of delta.
template <>
struct GroupDecoder<quant::TensorType::kIQ1_S> {
  static constexpr int kBlockElements = 256, kBlockBytes = 50, kAlignment = 2;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    const uint32_t indices = LoadU32<kAlignment>(block + 2 + 4 * group);
    const uint32_t packed = LoadU16<kAlignment>(block + 34 + 2 * group);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 4; ++i) {
      ExpandIq1(BitsAt(indices, 8 * i, 8) | BitsAt(packed, 3 * i, 3) << 8, packed >> 15,
                out.q[2 * i], out.q[2 * i + 1]);
    }
    const float d = Half(LoadU16<kAlignment>(block));
    SetScale(d * (1.0f + 2.0f * SignedFloat(BitsAt(packed, 12, 3))) * 0.125f, out);
  }
};

// 32 bytes of grid indices | 16 bytes, a nibble for eight elements: three high bits of the index
// and the sign of delta | 4 words: four three-bit scales, one for 16 elements, and above them in
// the top nibbles the four pieces of the f16 d.
template <>
struct GroupDecoder<quant::TensorType::kIQ1_M> {
  static constexpr int kBlockElements = 256, kBlockBytes = 56, kAlignment = 8;
  static constexpr bool kHasOffset = false, kTwoScales = true;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    const uint32_t indices = LoadU32<4>(block + 4 * group);
    const uint32_t nibbles = LoadU16<2>(block + 32 + 2 * group);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < 4; ++i) {
      ExpandIq1(BitsAt(indices, 8 * i, 8) | BitsAt(nibbles, 4 * i, 3) << 8,
                BitsAt(nibbles, 4 * i + 3, 1) != 0, out.q[2 * i], out.q[2 * i + 1]);
    }
    uint32_t words[2];
    LoadWords<kAlignment>(block + 48, words);
    const float d = Half(BitsAt(words[0], 12, 4) | BitsAt(words[0], 28, 4) << 4 |
                         BitsAt(words[1], 12, 4) << 8 | BitsAt(words[1], 28, 4) << 12);
    const uint32_t scales =
        (group < 4 ? words[0] : words[1]) >> (16 * (group / 2 % 2) + 6 * (group % 2));
    SetScales(d * (1.0f + 2.0f * SignedFloat(BitsAt(scales, 0, 3))) * 0.125f,
              d * (1.0f + 2.0f * SignedFloat(BitsAt(scales, 3, 3))) * 0.125f, out);
  }
};

// f16 d | word of the scales' two high bits | 4 bytes of their low nibbles | for each group 16
// bytes of nibbles, as IQ4_NL. Scales are six bits minus 32.
template <>
struct GroupDecoder<quant::TensorType::kIQ4_XS> {
  static constexpr int kBlockElements = 256, kBlockBytes = 136, kAlignment = 8;
  static constexpr bool kHasOffset = false, kTwoScales = false;

  static GGUF_OFFLOAD_HOST_DEVICE void Decode(const uint8_t* block, int group, Group32& out) {
    uint32_t header[2];
    LoadWords<kAlignment>(block, header);
    LoadTableEntries<kAlignment>(PackTable16(quant::kSignedValuesIq4Nl), block + 8 + 16 * group,
                                 out.q);
    const uint32_t scale = BitsAt(header[1], 4 * group, 4) | BitsAt(header[0], 16 + 2 * group, 2)
                                                                 << 4;
    SetScale(Half(header[0] & 0xffff) * SignedFloat(scale - 32), out);
  }
};

}  // namespace gguf_offload::cuda

#undef GGUF_OFFLOAD_GRID
#undef GGUF_OFFLOAD_DEVICE_GRID
#undef GGUF_OFFLOAD_READ_GRID

#endif  // KERNELS_QUANT_DECODE_GROUP_IQ_CUH_
