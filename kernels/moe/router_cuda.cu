#include "kernels/moe/router_cuda.h"
#include "kernels/ops/block_sum.cuh"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

// See router.cc.
constexpr float kSmallestSum = 6.103515625e-5f;
// Less than any Rank.
constexpr uint64_t kNone = 0;

__device__ __forceinline__ float Lowest() { return __int_as_float(0xff800000); }

// Orders like (value, -index), the value not NaN.
__device__ __forceinline__ uint64_t Rank(float value, int index) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // one zero only
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}
__device__ __forceinline__ int IndexOf(uint64_t rank) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(rank));
}

__device__ __forceinline__ uint64_t LargestRank(uint64_t value) {
  const uint32_t own = static_cast<uint32_t>(value >> 32);
  const uint32_t high = LargestOverWarp(own);
  const uint32_t low = LargestOverWarp(own == high ? static_cast<uint32_t>(value) : 0u);
  return static_cast<uint64_t>(high) << 32 | low;
}
__device__ __forceinline__ float LargestValue(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

struct RouterArguments {
  const float* logits;
  int64_t logits_stride;
  const float* selection_bias;
  const int32_t* positions;
  RoutingRule rule;
  ChosenExperts chosen;
};

// values[i] = exp(values[i]) / their sum. NaN makes all of them NaN.
__device__ __forceinline__ void SoftmaxByWarp(float* values, int count) {
  const int lane = threadIdx.x % 32;
  float largest = Lowest(), sum = 0;
  for (int i = lane; i < count; i += 32) largest = fmaxf(largest, values[i]);
  largest = LargestValue(largest);
  for (int i = lane; i < count; i += 32) {
    values[i] = expf(values[i] - largest);
    sum += values[i];
  }
  const float inverse = 1.0f / SumOverWarp(sum);
  for (int i = lane; i < count; i += 32) values[i] *= inverse;
  __syncwarp();
}

// The two largest of some numbers.
struct TopTwo {
  float best = Lowest(), second = Lowest();

  __device__ __forceinline__ void Add(float number) {
    second = fmaxf(second, fminf(best, number));
    best = fmaxf(best, number);
  }
};

// Takes experts of all but the best groups out of `keys`, by NaN. Neighbouring lanes share a group,
// as many as there are for each.
__device__ __forceinline__ void KeepBestGroups(const RoutingRule& rule, float* keys,
                                               float* group_scores) {
  const int lane = threadIdx.x % 32;
  const int size = rule.experts / rule.groups;
  int sharing = 32;
  while (sharing > 1 && sharing * rule.groups > 32) sharing /= 2;
  for (int first = 0; first < rule.groups; first += 32 / sharing) {
    const int group = first + lane / sharing;
    TopTwo top;
    if (group < rule.groups) {
      for (int i = lane % sharing; i < size; i += sharing) top.Add(keys[group * size + i]);
    }
    for (int distance = sharing / 2; distance > 0; distance /= 2) {
      const float best = __shfl_xor_sync(0xffffffffu, top.best, distance);
      const float second = __shfl_xor_sync(0xffffffffu, top.second, distance);
      top.Add(best);
      top.Add(second);
    }
    const float sum = size == 1 ? top.best : top.best + top.second;
    // Not a number: infinities of both signs.
    if (group < rule.groups && lane % sharing == 0) {
      group_scores[group] = isnan(sum) ? Lowest() : sum;
    }
  }
  __syncwarp();
  uint64_t last_kept = kNone;
  for (int group = lane; group < rule.groups; group += 32) {
    const uint64_t rank = Rank(group_scores[group], group);
    int better = 0;
    for (int i = 0; i < rule.groups; ++i) better += Rank(group_scores[i], i) > rank;
    if (better == rule.used_groups - 1) last_kept = rank;
  }
  last_kept = LargestRank(last_kept);
  for (int group = 0; group < rule.groups; ++group) {
    if (Rank(group_scores[group], group) >= last_kept) continue;
    for (int i = lane; i < size; i += 32) keys[group * size + i] = __int_as_float(0x7fffffff);
  }
  __syncwarp();
}

// A warp a row. kPerLane: lane l ranks experts l, l + 32... in registers.
template <int kPerLane>
__global__ void __launch_bounds__(32)
    ChooseExpertsKernel(const __grid_constant__ RouterArguments a) {
  LetLaterKernelsBegin();
  extern __shared__ float shared[];
  const RoutingRule& rule = a.rule;
  float* const scores = shared;                     // (experts)
  float* const keys = scores + rule.experts;        // (experts)
  float* const group_scores = keys + rule.experts;  // (groups)
  const int lane = threadIdx.x;
  const int64_t row = blockIdx.x;
  int32_t* const chosen = a.chosen.experts + row * rule.used;
  float* const weights = a.chosen.weights + row * rule.used;
  for (int i = lane; i < rule.experts; i += 32) {
    keys[i] = a.selection_bias == nullptr ? 0.0f : a.selection_bias[i];
  }
  AwaitEarlierKernels();
  if (a.positions != nullptr && a.positions[row] < 0) {
    for (int i = lane; i < rule.used; i += 32) {
      chosen[i] = -1;
      weights[i] = 0;
    }
    return;
  }

  const float* logits = a.logits + row * a.logits_stride;
  for (int i = lane; i < rule.experts; i += 32) {
    const float logit = logits[i];
    scores[i] = rule.gating == ExpertGating::kSigmoid ? 1.0f / (1.0f + expf(-logit)) : logit;
  }
  __syncwarp();
  if (rule.gating == ExpertGating::kSoftmax) SoftmaxByWarp(scores, rule.experts);
  for (int i = lane; i < rule.experts; i += 32) {
    const float key = scores[i] + keys[i];
    keys[i] = isnan(key) ? Lowest() : key;
  }
  __syncwarp();
  if (rule.used_groups < rule.groups) KeepBestGroups(rule, keys, group_scores);

  uint64_t ranks[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = lane + 32 * j;
    ranks[j] = i < rule.experts && !isnan(keys[i]) ? Rank(keys[i], i) : kNone;
  }
  __syncwarp();  // the keys' memory is about to be used for something else
  for (int k = 0; k < rule.used; ++k) {
    uint64_t best = kNone;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) best = ranks[j] > best ? ranks[j] : best;
    best = LargestRank(best);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (ranks[j] == best) ranks[j] = kNone;
    }
    const int expert = IndexOf(best);
    if (lane == 0) {
      chosen[k] = expert;
      keys[k] = scores[expert];  // nobody needs the keys any more
    }
  }
  __syncwarp();

  if (rule.gating == ExpertGating::kSoftmaxOfChosen) SoftmaxByWarp(keys, rule.used);
  float scale = rule.scale;
  if (rule.normalize) {
    float sum = 0;
    for (int i = lane; i < rule.used; i += 32) sum += keys[i];
    sum = SumOverWarp(sum);
    scale /= sum < kSmallestSum ? kSmallestSum : sum;  // not fmaxf, which would lose NaN
  }
  for (int i = lane; i < rule.used; i += 32) weights[i] = keys[i] * scale;
}

template <int kPerLane>
void Launch(const RouterArguments& a, cudaStream_t stream) {
  const size_t bytes = (2 * a.rule.experts + a.rule.groups) * sizeof(float);
  LaunchDependent(ChooseExpertsKernel<kPerLane>, a.chosen.rows, 32, bytes, stream, a);
}

}  // namespace

void ChooseExperts(const float* logits, int64_t logits_stride, const float* selection_bias,
                   const int32_t* positions, const RoutingRule& rule, const ChosenExperts& chosen,
                   cudaStream_t stream) {
  if (chosen.rows <= 0) return;
  const RouterArguments a = {logits, logits_stride, selection_bias, positions, rule, chosen};
  if (rule.experts <= 64) {
    Launch<2>(a, stream);
  } else if (rule.experts <= 128) {
    Launch<4>(a, stream);
  } else if (rule.experts <= 256) {
    Launch<8>(a, stream);
  } else if (rule.experts <= 512) {
    Launch<16>(a, stream);
  } else {
    Launch<kMaxExperts / 32>(a, stream);
  }
}

}  // namespace gguf_offload::cuda
