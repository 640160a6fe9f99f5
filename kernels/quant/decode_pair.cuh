// Two groups of 32 at once that share bytes of their block, as its low and its high bits: for the
// formats eight of whose blocks, a turn, are a multiple of 16 bytes. A warp takes a turn of a row
// at a time, a pair of groups a lane. Layouts as told in unpack_k-inl.h.
#ifndef KERNELS_QUANT_DECODE_PAIR_CUH_
#define KERNELS_QUANT_DECODE_PAIR_CUH_

#include "kernels/quant/group32.cuh"

namespace gguf_offload::cuda {

// How the numbers of a pair are scaled: value = scale * number + offset, group by group.
struct PairScales {
  float scale[2];
  float offset[2];
};

inline constexpr int kTurnElements = 2048;

// Decodes lane `lane`'s pair of a turn: pair lane % 4 of block lane / 4.
//   static constexpr int kBlockBytes;    // of 256 elements
//   static constexpr int kScratchBytes;  // of shared memory, 16-byte aligned, that a warp needs
//   // A pair's first group among all of a row, and how far behind it the second is.
//   static constexpr int kGroupDistance;
//   static int FirstGroup(int pair);
//   struct Raw;                          // what a lane asks for
//   // Where in a turn (16-byte aligned) a lane reads.
//   static const uint8_t* Begin(const uint8_t* turn, int lane);
//   static void Load(const uint8_t* begin, int lane, Raw&);
//   class Pair;                          // made of Raw by all lanes of the warp together
//   Pair(const Raw&, int lane, uint8_t* scratch);
// and of Pair, either
//   PairScales scales() const;
//   uint32_t Word(int group, int w) const;  // unsigned elements 4 * w on of group 0 or 1
// or, with kTwoScales, a scale for each 16 elements and no offset:
//   float scale(int group, int half) const;
//   uint32_t Word(int group, int w) const;  // signed
template <quant::TensorType kType>
struct PairDecoder;

constexpr bool HasPairs(quant::TensorType type) {
  return type == quant::TensorType::kQ4_K || type == quant::TensorType::kQ5_K ||
         type == quant::TensorType::kQ6_K;
}

// Whether only whole turns of a row are multiples of 16 bytes.
constexpr bool NeedsWholeTurns(quant::TensorType type) { return type == quant::TensorType::kQ6_K; }

// The scales and minima of two neighbouring groups, bytes in the header as SixBitScale's.
// upper_factor: of the second group's numbers.
__device__ __forceinline__ PairScales SixBitScales(const uint4& header, int pair,
                                                   float upper_factor) {
  const bool upper = pair >= 2;
  const int shift = 16 * (pair % 2), to_place = upper ? shift + 2 : shift;
  const uint32_t mask = upper ? 0x3030u : 0x3f3fu, nibbles = upper ? 0x0f0fu : 0u;
  const uint32_t scales = (header.y >> to_place & mask) | (header.w >> shift & nibbles);
  const uint32_t minima = (header.z >> to_place & mask) | (header.w >> (shift + 4) & nibbles);
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

// What Q4_K and Q5_K share: a pair is two neighbouring groups, a lane reads its own.
template <int kBytes>
struct NeighbouringGroups {
  static constexpr int kBlockBytes = kBytes, kScratchBytes = 0, kGroupDistance = 1;
  static constexpr bool kTwoScales = false;

  static __device__ __forceinline__ int FirstGroup(int pair) { return 2 * pair; }
  static __device__ __forceinline__ const uint8_t* Begin(const uint8_t* turn, int lane) {
    return turn + lane / 4 * kBlockBytes;
  }
};

// Scales | 4 x 32 bytes of nibbles. High nibbles stay where they are, as sixteen times what they
// mean.
template <>
struct PairDecoder<quant::TensorType::kQ4_K> : NeighbouringGroups<144> {
  struct Raw {
    uint4 header;
    uint4 nibbles[2];
  };

  static __device__ __forceinline__ void Load(const uint8_t* begin, int lane, Raw& raw) {
    raw.header = LoadVector(begin);
    LoadVectors(begin + 16 + 32 * (lane % 4), raw.nibbles);
  }

  class Pair {
   public:
    __device__ __forceinline__ Pair(const Raw& raw, int lane, uint8_t*)
        : raw_(raw), scales_(SixBitScales(raw.header, lane % 4, 1.0f / 16)) {}
    __device__ __forceinline__ const PairScales& scales() const { return scales_; }
    __device__ __forceinline__ uint32_t Word(int group, int w) const {
      return WordOf(raw_.nibbles, w) & (group == 0 ? 0x0f0f0f0fu : 0xf0f0f0f0u);
    }

   private:
    const Raw& raw_;
    const PairScales scales_;
  };
};

// Scales | 32 bytes of fifth bits, bit g those of group g | nibbles as Q4_K.
template <>
struct PairDecoder<quant::TensorType::kQ5_K> : NeighbouringGroups<176> {
  struct Raw {
    uint4 header;
    uint4 nibbles[2];
    uint4 fifth[2];
  };

  static __device__ __forceinline__ void Load(const uint8_t* begin, int lane, Raw& raw) {
    raw.header = LoadVector(begin);
    LoadVectors(begin + 48 + 32 * (lane % 4), raw.nibbles);
    LoadVectors(begin + 16, raw.fifth);
  }

  class Pair {
   public:
    __device__ __forceinline__ Pair(const Raw& raw, int lane, uint8_t*)
        : raw_(raw), lane_(lane), scales_(SixBitScales(raw.header, lane % 4, 1.0f)) {}
    __device__ __forceinline__ const PairScales& scales() const { return scales_; }
    __device__ __forceinline__ uint32_t Word(int group, int w) const {
      const uint32_t low = WordOf(raw_.nibbles, w) >> (4 * group) & 0x0f0f0f0fu;
      const int to_place = 4 - 2 * (lane_ % 4) - group;
      return low | (RotateLeft(WordOf(raw_.fifth, w), to_place) & 0x10101010u);
    }

   private:
    const Raw& raw_;
    const int lane_;
    const PairScales scales_;
  };
};

// 128 bytes of low nibbles, of two pairs of groups of 64 bytes each | 64 bytes of high two bits |
// 16 signed scales | f16 d. Only every eighth block is aligned: lanes ask for a turn in pieces of
// 16 bytes, whoever they are for, and pass them on by way of the scratch memory.
template <>
struct PairDecoder<quant::TensorType::kQ6_K> {
  static constexpr int kBlockBytes = 210, kScratchBytes = 8 * kBlockBytes, kGroupDistance = 2;
  static constexpr bool kTwoScales = true;
  static constexpr int kPieces = kScratchBytes / 16;
  struct Raw {
    uint4 pieces[(kPieces + 31) / 32];
  };

  static __device__ __forceinline__ int FirstGroup(int pair) { return 4 * (pair / 2) + pair % 2; }
  static __device__ __forceinline__ const uint8_t* Begin(const uint8_t* turn, int lane) {
    return turn + 16 * lane;
  }
  static __device__ __forceinline__ void Load(const uint8_t* begin, int lane, Raw& raw) {
#pragma unroll
    for (int i = 0; i * 32 < kPieces; ++i) {
      if (32 * i + lane < kPieces) raw.pieces[i] = LoadVector(begin + 512 * i);
    }
  }

  class Pair {
   public:
    __device__ __forceinline__ Pair(const Raw& raw, int lane, uint8_t* scratch) {
      __syncwarp();  // the last pair has been read
#pragma unroll
      for (int i = 0; i * 32 < kPieces; ++i) {
        if (32 * i + lane >= kPieces) continue;
        reinterpret_cast<uint4*>(scratch)[32 * i + lane] = raw.pieces[i];
      }
      __syncwarp();
      const uint8_t* const block = scratch + lane / 4 * kBlockBytes;
      const int half = lane / 2 % 2, run = lane % 2;
      uint32_t low[8], high[8];
      LoadWords<2>(block + 64 * half + 32 * run, low);
      LoadWords<2>(block + 128 + 32 * half, high);
#pragma unroll
      for (int w = 0; w < 8; ++w) {  // 4 * (number - 32)
        const uint32_t bits = RotateLeft(high[w], -2 * run);
        words_[0][w] = ((low[w] << 2 & 0x3c3c3c3cu) ^ 0x80808080u) ^ (bits << 6 & 0xc0c0c0c0u);
        words_[1][w] = ((low[w] >> 2 & 0x3c3c3c3cu) ^ 0x80808080u) ^ (bits << 2 & 0xc0c0c0c0u);
      }
      const float d = Half(LoadU16<2>(block + 208)) * (1.0f / 4);
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        const uint32_t scales = LoadU16<2>(block + 192 + 8 * half + 2 * run + 4 * group);
        scales_[group][0] = d * static_cast<float>(static_cast<int8_t>(scales));
        scales_[group][1] = d * static_cast<float>(static_cast<int8_t>(scales >> 8));
      }
    }
    __device__ __forceinline__ float scale(int group, int half) const {
      return scales_[group][half];
    }
    __device__ __forceinline__ uint32_t Word(int group, int w) const { return words_[group][w]; }

   private:
    uint32_t words_[2][8];
    float scales_[2][2];
  };
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DECODE_PAIR_CUH_
