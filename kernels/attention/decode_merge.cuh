// How blocks of DecodeAttention that share a row find each other, and the last one merges what all
// of them left.
#ifndef KERNELS_ATTENTION_DECODE_MERGE_CUH_
#define KERNELS_ATTENTION_DECODE_MERGE_CUH_

#include "kernels/attention/attention_mma.cuh"
#include "kernels/attention/decode_arguments.h"
#include "kernels/ops/quantize_four.cuh"

namespace gguf_offload::cuda {

inline constexpr int kDecodeWarps = 4;  // of a block

// Consecutive elements that a thread finishes together.
template <int kWidth>
struct alignas(4 * kWidth) DecodeElements {
  float v[kWidth];
};

// Writes elements [first, first + kWidth) of a head of a row. Whole warps call it where the result
// is quantized.
template <int kWidth>
__device__ __forceinline__ void WriteDecoded(const DecodeArguments& a, int64_t row, int head,
                                             int first, bool valid,
                                             const DecodeElements<kWidth>& elements) {
  const int column = head * a.layer.value_dim + first;
  if (valid && a.rows.out != nullptr) {
    *reinterpret_cast<DecodeElements<kWidth>*>(a.rows.out + row * a.rows.out_stride + column) =
        elements;
  }
  if constexpr (kWidth == 4) {
    if (a.quantize) {
      const float* v = elements.v;
      QuantizeFour(make_float4(v[0], v[1], v[2], v[3]), valid, row, column / 4, a.rows.quantized);
    }
  }
}

// Elements [from, from + kWidth) of a block's part of a head.
template <int kWidth>
__device__ __forceinline__ DecodeElements<kWidth> LoadPart(const DecodeArguments& a, int64_t part,
                                                           int from) {
  const float* at = a.workspace.partials + part * a.layer.value_dim + from;
  DecodeElements<kWidth> elements;
  if constexpr (kWidth == 4) {
    *reinterpret_cast<float4*>(elements.v) = __ldcg(reinterpret_cast<const float4*>(at));
  } else {
    *reinterpret_cast<float2*>(elements.v) = __ldcg(reinterpret_cast<const float2*>(at));
  }
  return elements;
}

// MergeShares of few shares: each thread weighs them itself, so that all that it takes is asked for
// at once and nobody waits for others.
inline constexpr int kFewShares = 16;
template <int kWidth>
__device__ __forceinline__ void MergeFewShares(const DecodeArguments& a, int64_t row,
                                               int first_head, int heads, int active) {
  const int64_t first =
      (static_cast<int64_t>(blockIdx.z) * a.spec.heads + first_head) * a.splits.splits;
  const int pieces = a.layer.value_dim / kWidth;
  for (int begin = 0; begin < heads * pieces; begin += blockDim.x) {
    const int i = begin + threadIdx.x;
    const bool valid = i < heads * pieces;
    const int head = valid ? i / pieces : 0, from = valid ? i % pieces * kWidth : 0;
    const int64_t part = first + head * a.splits.splits;
    float2 softmax[kFewShares];
    DecodeElements<kWidth> elements[kFewShares];
#pragma unroll
    for (int split = 0; split < kFewShares; ++split) {
      softmax[split] = make_float2(MinusInfinity(), 0);
      elements[split] = {};
      if (split >= active) continue;
      softmax[split] = __ldcg(a.partial_softmax + part + split);
      elements[split] = LoadPart<kWidth>(a, part + split, from);
    }
    float sink = MinusInfinity();
    if (a.spec.sinks != nullptr) sink = a.spec.sinks[first_head + head] * kLog2E;
    float largest = sink;
#pragma unroll
    for (int split = 0; split < kFewShares; ++split) largest = fmaxf(largest, softmax[split].x);
    float sum = Exp2(sink - largest);
    DecodeElements<kWidth> total = {};
#pragma unroll
    for (int split = 0; split < kFewShares; ++split) {
      const float factor = Exp2(softmax[split].x - largest);
      sum += factor * softmax[split].y;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) total.v[e] += factor * elements[split].v[e];
    }
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total.v[e] *= inverse;
    WriteDecoded<kWidth>(a, row, first_head + head, valid ? from : i % 8 * kWidth, valid, total);
  }
}

// The last block of a row and tile to finish merges what all of them left.
template <int kWidth>
__device__ __forceinline__ void MergeShares(const DecodeArguments& a, int64_t row, int first_head,
                                            int heads, int active,
                                            float (&factors)[16][kMaxDecodeSplits]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.z) * a.spec.heads + first_head) * a.splits.splits;
  for (int head = warp; head < heads; head += kDecodeWarps) {
    const float2* parts = a.partial_softmax + first + head * a.splits.splits;
    const float2 nothing = make_float2(MinusInfinity(), 0);
    const float2 low = lane < active ? __ldcg(parts + lane) : nothing;
    const float2 high = lane + 32 < active ? __ldcg(parts + lane + 32) : nothing;
    float sink = MinusInfinity();
    if (a.spec.sinks != nullptr) sink = a.spec.sinks[first_head + head] * kLog2E;
    float largest = fmaxf(fmaxf(low.x, high.x), sink);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    }
    const float low_factor = Exp2(low.x - largest), high_factor = Exp2(high.x - largest);
    float sum = low.y * low_factor + high.y * high_factor;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    const float inverse = 1.0f / (sum + Exp2(sink - largest));
    factors[head][lane] = low_factor * inverse;
    factors[head][lane + 32] = high_factor * inverse;
  }
  __syncthreads();
  const int pieces = a.layer.value_dim / kWidth;
  for (int begin = 0; begin < heads * pieces; begin += blockDim.x) {
    const int i = begin + threadIdx.x;
    const bool valid = i < heads * pieces;
    const int head = valid ? i / pieces : 0, from = valid ? i % pieces * kWidth : 0;
    const int64_t part = first + head * a.splits.splits;
    DecodeElements<kWidth> total = {};
#pragma unroll 8
    for (int split = 0; split < active; ++split) {
      const DecodeElements<kWidth> elements = LoadPart<kWidth>(a, part + split, from);
      const float factor = factors[head][split];
#pragma unroll
      for (int e = 0; e < kWidth; ++e) total.v[e] += factor * elements.v[e];
    }
    WriteDecoded<kWidth>(a, row, first_head + head, valid ? from : i % 8 * kWidth, valid, total);
  }
}

// atomicInc. What the block has written before, all threads of it, is seen by blocks that find it
// counted, as what they wrote is by this one: cheaper than a fence in every thread.
__device__ __forceinline__ unsigned int IncrementForAll(unsigned int* counter, unsigned int most) {
  unsigned int old;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(counter), "r"(most)
               : "memory");
  return old;
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_DECODE_MERGE_CUH_
