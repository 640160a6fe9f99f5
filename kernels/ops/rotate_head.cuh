// Norm and rotary embedding of a head by a warp, for kernels that do something
// with the result.
#ifndef KERNELS_OPS_ROTATE_HEAD_CUH_
#define KERNELS_OPS_ROTATE_HEAD_CUH_

#include <cstdint>

#include "kernels/ops/block_sum.cuh"
#include "kernels/ops/rope_cuda.h"

namespace gguf_offload::cuda {

// A query or key head in the registers of a warp: asked for by LoadWeights, which need not wait for
// earlier kernels, and Load; used by Finish. kRounds: how many times 64 elements cover the head.
// Lane l has pairs l, l + 32..., first those that turn, then the rest of the head, two neighbours a
// pair.
template <int kRounds>
class HeadRotation {
 public:
  // weight: (key_dim) of the norm, or null.
  __device__ __forceinline__ void LoadWeights(const RotateAndStore& a, const float* weight) {
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      first_weight_[j] = second_weight_[j] = 1;
      if (2 * Pair(j) >= a.layer.key_dim || !a.normalize || weight == nullptr) continue;
      first_weight_[j] = weight[FirstIndex(a, j)];
      second_weight_[j] = weight[SecondIndex(a, j)];
    }
  }

  __device__ __forceinline__ void Load(const RotateAndStore& a, int64_t row, const float* from) {
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      first_[j] = second_[j] = 0;
      angle_[j] = make_float2(1, 0);
      if (2 * Pair(j) >= a.layer.key_dim) continue;
      first_[j] = from[FirstIndex(a, j)];
      second_[j] = from[SecondIndex(a, j)];
      if (Turns(a, j)) angle_[j] = a.angles[row * a.pairs + Pair(j)];
    }
  }

  // Calls store(i, value) for the head's elements, each by one lane.
  template <class Store>
  __device__ __forceinline__ void Finish(const RotateAndStore& a, const Store& store) const {
    // To the same bits whatever kRounds is.
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      sum = fmaf(first_[j], first_[j], fmaf(second_[j], second_[j], sum));
    }
    float scale = 1;
    if (a.normalize) scale = 1.0f / sqrtf(SumOverWarp(sum) / a.layer.key_dim + a.eps);
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      if (2 * Pair(j) >= a.layer.key_dim) continue;
      float x = first_[j] * scale * first_weight_[j];
      float y = second_[j] * scale * second_weight_[j];
      if (Turns(a, j)) {
        const float turned = fmaf(x, angle_[j].x, -(y * angle_[j].y));
        y = fmaf(x, angle_[j].y, y * angle_[j].x);
        x = turned;
      }
      store(FirstIndex(a, j), x);
      store(SecondIndex(a, j), y);
    }
  }

 private:
  static __device__ __forceinline__ int Pair(int j) { return threadIdx.x % 32 + 32 * j; }
  static __device__ __forceinline__ bool Turns(const RotateAndStore& a, int j) {
    return Pair(j) < a.pairs;
  }
  static __device__ __forceinline__ bool Apart(const RotateAndStore& a, int j) {
    return Turns(a, j) && a.style == RopeStyle::kNeox;
  }
  static __device__ __forceinline__ int FirstIndex(const RotateAndStore& a, int j) {
    return Apart(a, j) ? Pair(j) : 2 * Pair(j);
  }
  static __device__ __forceinline__ int SecondIndex(const RotateAndStore& a, int j) {
    return Apart(a, j) ? Pair(j) + a.pairs : 2 * Pair(j) + 1;
  }

  float first_[kRounds], second_[kRounds], first_weight_[kRounds], second_weight_[kRounds];
  float2 angle_[kRounds];
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_ROTATE_HEAD_CUH_
