// Dequantization of a run of blocks by one warp: the blocks come in through shared memory in
// aligned 16-byte pieces, each lane decodes a group, and the values leave through shared memory in
// 16-byte pieces again, so that both sides are coalesced whatever the size of a block.
#ifndef KERNELS_QUANT_DEQUANTIZE_TILE_CUH_
#define KERNELS_QUANT_DEQUANTIZE_TILE_CUH_

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/quant/decode_group.cuh"

namespace gguf_offload::cuda {

inline constexpr int kTileGroups = 64;
inline constexpr int kTileElements = 32 * kTileGroups;

// --- Numbers.

// Two binary16 numbers, finite unless NaN: what is beyond 65504 becomes that.
__device__ __forceinline__ uint32_t SaturatedHalfs(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t halfs;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(halfs) : "f"(high), "f"(low));
  return halfs;
#else
  constexpr float kMax = 65504.0f;
  const auto clamp = [](float x) { return x > kMax ? kMax : x < -kMax ? -kMax : x; };
  const __half2 halfs = __floats2half2_rn(clamp(low), clamp(high));
  return *reinterpret_cast<const uint32_t*>(&halfs);
#endif
}

// 16 bytes of T from as many floats.
template <typename T>
__device__ __forceinline__ uint4 Pack16Bytes(const float* values) {
  if constexpr (std::is_same_v<T, float>) {
    return make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]),
                      __float_as_uint(values[2]), __float_as_uint(values[3]));
  } else {
    static_assert(std::is_same_v<T, __half>);
    return make_uint4(SaturatedHalfs(values[0], values[1]), SaturatedHalfs(values[2], values[3]),
                      SaturatedHalfs(values[4], values[5]), SaturatedHalfs(values[6], values[7]));
  }
}

template <typename T>
__device__ __forceinline__ T SaturatedTo(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return __ushort_as_half(static_cast<unsigned short>(SaturatedHalfs(value, value)));
  }
}

// Element i of a group, rounded as on the CPU: a fused multiply-add would differ in the last bit.
template <class Decoder>
__device__ __forceinline__ float ValueOf(const Group32& group, int i) {
  const float product = __fmul_rn(group.scale[i / 16], NumberOf<Decoder>(group, i));
  return Decoder::kHasOffset ? __fadd_rn(product, group.offset[i / 16]) : product;
}

// --- Tiles.

// What a warp needs of shared memory.
template <quant::TensorType kType, typename T>
struct DequantizeTile {
  using Decoder = GroupDecoder<kType>;
  static constexpr int kGroupsPerBlock = Decoder::kBlockElements / 32;
  static constexpr int kBytes = kTileGroups / kGroupsPerBlock * Decoder::kBlockBytes;
  static constexpr int kPieces = (kBytes + 15) / 16 + 1;  // one more if they begin within a piece
  static constexpr int kGroupPieces = 32 * sizeof(T) / 16;

  uint4 blocks[kPieces];
  uint4 values[32 * kGroupPieces];  // (32 groups, their pieces)

  // Where piece `piece` of group `row` lies in `values`: turned so that neither eight lanes with a
  // row each nor eight with consecutive pieces meet in a bank.
  static __device__ __forceinline__ int PlaceOf(int row, int piece) {
    constexpr int kRowsPerLine = 8 / kGroupPieces;
    return row * kGroupPieces + (piece ^ (row / kRowsPerLine % kGroupPieces));
  }
};

// Dequantizes `groups` (at most kTileGroups) groups from the beginning of a block on to `out`
// (32 * groups; 16-byte aligned). `blocks` is aligned as GroupDecoder<kType> demands; the aligned
// 16 bytes around the blocks' first and last byte are read, too. All lanes of a warp take part.
template <quant::TensorType kType, typename T>
__device__ __forceinline__ void DequantizeByWarp(const uint8_t* blocks, int groups, T* out,
                                                 DequantizeTile<kType, T>& shared) {
  using Tile = DequantizeTile<kType, T>;
  using Decoder = GroupDecoder<kType>;
  const int lane = threadIdx.x % 32;

  const int misalignment = static_cast<int>(reinterpret_cast<uintptr_t>(blocks) & 15);
  const int bytes = misalignment + groups / Tile::kGroupsPerBlock * Decoder::kBlockBytes;
  const uint4* source = reinterpret_cast<const uint4*>(blocks - misalignment);
  constexpr int kRounds = (Tile::kPieces + 31) / 32;
  uint4 loaded[kRounds];  // all requests leave before the first answer is needed
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int piece = 32 * round + lane;
    if (16 * piece < bytes) loaded[round] = __ldcs(source + piece);
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int piece = 32 * round + lane;
    if (16 * piece < bytes) shared.blocks[piece] = loaded[round];
  }
  __syncwarp();

  const uint8_t* staged = reinterpret_cast<const uint8_t*>(shared.blocks) + misalignment;
#pragma unroll 1
  for (int first = 0; first < groups; first += 32) {
    const int group = first + lane;
    if (group < groups) {
      Group32 decoded;
      Decoder::Decode(staged + group / Tile::kGroupsPerBlock * Decoder::kBlockBytes,
                      group % Tile::kGroupsPerBlock, decoded);
      constexpr int kPieceElements = 16 / sizeof(T);
#pragma unroll
      for (int piece = 0; piece < Tile::kGroupPieces; ++piece) {
        float values[kPieceElements];
#pragma unroll
        for (int i = 0; i < kPieceElements; ++i) {
          values[i] = ValueOf<Decoder>(decoded, piece * kPieceElements + i);
        }
        shared.values[Tile::PlaceOf(lane, piece)] = Pack16Bytes<T>(values);
      }
    }
    __syncwarp();
    uint4* pieces_out = reinterpret_cast<uint4*>(out + 32 * first);
    const int pieces = min(32, groups - first) * Tile::kGroupPieces;
#pragma unroll
    for (int round = 0; round < Tile::kGroupPieces; ++round) {
      const int piece = 32 * round + lane;
      if (piece < pieces) {
        pieces_out[piece] =
            shared.values[Tile::PlaceOf(piece / Tile::kGroupPieces, piece % Tile::kGroupPieces)];
      }
    }
    __syncwarp();
  }
}

// --- Plain numbers.

// Element i of an array of plain numbers of type kType that is aligned to its elements.
template <quant::TensorType kType>
struct PlainNumber;

#define GGUF_OFFLOAD_PLAIN_NUMBER(name, stored, convert)                          \
  template <>                                                                     \
  struct PlainNumber<quant::TensorType::name> {                                   \
    using Stored = stored;                                                        \
    static __device__ __forceinline__ float ToFloat(stored x) { return convert; } \
  };
GGUF_OFFLOAD_PLAIN_NUMBER(kF32, float, x)
GGUF_OFFLOAD_PLAIN_NUMBER(kF16, uint16_t, Half(x))
GGUF_OFFLOAD_PLAIN_NUMBER(kBF16, uint16_t, FloatOfBits(static_cast<uint32_t>(x) << 16))
GGUF_OFFLOAD_PLAIN_NUMBER(kF64, double, static_cast<float>(x))
GGUF_OFFLOAD_PLAIN_NUMBER(kI8, int8_t, static_cast<float>(x))
GGUF_OFFLOAD_PLAIN_NUMBER(kI16, int16_t, static_cast<float>(x))
GGUF_OFFLOAD_PLAIN_NUMBER(kI32, int32_t, static_cast<float>(x))
GGUF_OFFLOAD_PLAIN_NUMBER(kI64, int64_t, static_cast<float>(x))
#undef GGUF_OFFLOAD_PLAIN_NUMBER

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DEQUANTIZE_TILE_CUH_
