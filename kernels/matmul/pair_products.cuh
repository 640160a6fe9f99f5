// What the kernels for pairs of groups (decode_pair.cuh) are made of: how a lane finds and keeps
// weights of a few rows, what it makes of them, and when rows can be multiplied so.
#ifndef KERNELS_MATMUL_PAIR_PRODUCTS_CUH_
#define KERNELS_MATMUL_PAIR_PRODUCTS_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/quantized_matvec.cuh"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/ops/vector_access.h"
#include "kernels/quant/decode_pair.cuh"

namespace gguf_offload::cuda {

// The activations of one column for a pair of groups.
struct ActivationPair {
  int4 q[4];
  float4 scale;  // QuantizedRows::scale of both groups
};

template <class Decoder>
__device__ __forceinline__ ActivationPair LoadActivationPair(const QuantizedRows& x, int column,
                                                             int pair) {
  ActivationPair out;
  const int first = Decoder::FirstGroup(pair);
  const int4* q = reinterpret_cast<const int4*>(x.q + column * x.columns) + 2 * first;
  const float2* scale = x.scale + column * (x.columns / 32) + first;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.q[i] = q[i / 2 * (2 * Decoder::kGroupDistance) + i % 2];
  if constexpr (Decoder::kGroupDistance == 1) {
    out.scale = *reinterpret_cast<const float4*>(scale);
  } else {
    const float2 lower = scale[0], upper = scale[Decoder::kGroupDistance];
    out.scale = make_float4(lower.x, lower.y, upper.x, upper.y);
  }
  return out;
}

// Where a lane reads weights of the rows: a turn, then every step-th behind it.
template <quant::TensorType kType, int kRows>
struct PairRows {
  using Decoder = PairDecoder<kType>;
  using Raw = typename Decoder::Raw;

  const uint8_t* begin;    // of the first row
  uint32_t offset[kRows];  // of the others from there

  __device__ __forceinline__ void Load(Raw (&raw)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) Decoder::Load(begin + offset[i], threadIdx.x % 32, raw[i]);
  }
  __device__ __forceinline__ void Advance(int step) { begin += step * (8 * Decoder::kBlockBytes); }
};

// What a warp passes weights on in.
template <class Decoder, int kWarps>
struct PairScratch {
  __align__(16) uint8_t bytes[kWarps][Decoder::kScratchBytes > 0 ? Decoder::kScratchBytes : 16];

  __device__ __forceinline__ uint8_t* OfWarp() { return bytes[threadIdx.x / 32]; }
};

// Adds the pair's products with a column to `sum`.
template <class Decoder>
__device__ __forceinline__ void AddPairProducts(const typename Decoder::Pair& pair,
                                                const ActivationPair& x, float& sum) {
  const int xs[2][8] = {
      {x.q[0].x, x.q[0].y, x.q[0].z, x.q[0].w, x.q[1].x, x.q[1].y, x.q[1].z, x.q[1].w},
      {x.q[2].x, x.q[2].y, x.q[2].z, x.q[2].w, x.q[3].x, x.q[3].y, x.q[3].z, x.q[3].w}};
  const float x_scale[2] = {x.scale.x, x.scale.z};
  if constexpr (Decoder::kTwoScales) {
    int products[2][2] = {};
#pragma unroll
    for (int w = 0; w < 8; ++w) {
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        int& product = products[group][w / 4];
        product = Dot4<false>(pair.Word(group, w), xs[group][w], product);
      }
    }
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      const float product = fmaf(pair.scale(group, 0), static_cast<float>(products[group][0]),
                                 pair.scale(group, 1) * static_cast<float>(products[group][1]));
      sum = fmaf(x_scale[group], product, sum);
    }
  } else {
    int products[2] = {};
#pragma unroll
    for (int w = 0; w < 8; ++w) {
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        products[group] = Dot4<true>(pair.Word(group, w), xs[group][w], products[group]);
      }
    }
    const PairScales& scales = pair.scales();
    sum = fmaf(x_scale[0] * scales.scale[0], static_cast<float>(products[0]), sum);
    sum = fmaf(x_scale[1] * scales.scale[1], static_cast<float>(products[1]), sum);
    sum = fmaf(scales.offset[0], x.scale.y, sum);
    sum = fmaf(scales.offset[1], x.scale.w, sum);
  }
}

inline int Multiprocessors() {
  static const int count = [] {
    int device = 0, multiprocessors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    return multiprocessors;
  }();
  return count;
}

// Calls `run` with the type as a template's argument.
template <class Run>
void VisitPairedType(quant::TensorType type, const Run& run) {
  if (type == quant::TensorType::kQ4_K) {
    run.template operator()<quant::TensorType::kQ4_K>();
  } else if (type == quant::TensorType::kQ5_K) {
    run.template operator()<quant::TensorType::kQ5_K>();
  } else {
    run.template operator()<quant::TensorType::kQ6_K>();
  }
}

// Whether rows can be read in pieces of 16 bytes.
inline bool HasPairRows(quant::TensorType type, const uint8_t* weight, int64_t cols) {
  return SixteenByteRows(weight) && (!NeedsWholeTurns(type) || cols % kTurnElements == 0);
}

// The logarithm of how many warps share rows: as many as find room at once on a large GPU (132
// processors with 16 warps of four rows each), so that no processor waits for a second round.
inline int ChoosePairedSplitBits(int64_t rows, int64_t cols) {
  constexpr int64_t kMostWarps = 132 * 16;
  const int64_t chunks = (cols + kTurnElements - 1) / kTurnElements;
  int bits = 0;
  while (1 << bits < kMatVecWarps && 2 << bits <= chunks &&
         (rows / 4) << (bits + 1) <= kMostWarps) {
    ++bits;
  }
  return bits;
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_PAIR_PRODUCTS_CUH_
