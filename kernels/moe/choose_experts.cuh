// How a warp or a block chooses the experts of a token, for kernels that do something with them.
#ifndef KERNELS_MOE_CHOOSE_EXPERTS_CUH_
#define KERNELS_MOE_CHOOSE_EXPERTS_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/moe/router_cuda.h"
#include "kernels/ops/block_sum.cuh"

namespace gguf_offload::cuda {

// See router.cc.
inline constexpr float kSmallestSum = 6.103515625e-5f;
// Less than any Order.
inline constexpr uint32_t kNotRanked = 0;

__device__ __forceinline__ float Lowest() { return __int_as_float(0xff800000); }

// Orders like the values, which are not NaN.
__device__ __forceinline__ uint32_t Order(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // one zero only
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float FromOrder(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

// Something that is ranked: of equal orders the smaller index is better.
struct Ranked {
  uint32_t order = kNotRanked;
  uint32_t index = ~0u;
};
__device__ __forceinline__ bool IsBetter(const Ranked& a, const Ranked& b) {
  return a.order > b.order || (a.order == b.order && a.index < b.index);
}
__device__ __forceinline__ Ranked BestOfWarp(const Ranked& own) {
  const uint32_t order = LargestOverWarp(own.order);
  return {order, ~LargestOverWarp(own.order == order ? ~own.index : 0u)};
}

__device__ __forceinline__ float LargestValue(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

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
  int sharing_bits = 5;
  while (sharing_bits > 0 && rule.groups << sharing_bits > 32) --sharing_bits;
  const int sharing = 1 << sharing_bits, own = lane & (sharing - 1);
  for (int first = 0; first < rule.groups; first += 32 >> sharing_bits) {
    const int group = first + (lane >> sharing_bits);
    TopTwo top;
    if (group < rule.groups) {
#pragma unroll 8
      for (int i = own; i < size; i += sharing) top.Add(keys[group * size + i]);
    }
    for (int distance = sharing / 2; distance > 0; distance /= 2) {
      const float best = __shfl_xor_sync(0xffffffffu, top.best, distance);
      const float second = __shfl_xor_sync(0xffffffffu, top.second, distance);
      top.Add(best);
      top.Add(second);
    }
    const float sum = size == 1 ? top.best : top.best + top.second;
    // Not a number: infinities of both signs.
    if (group < rule.groups && own == 0) {
      group_scores[group] = isnan(sum) ? Lowest() : sum;
    }
  }
  __syncwarp();
  const auto rank_of = [&](int group) {
    return Ranked{Order(group_scores[group]), static_cast<uint32_t>(group)};
  };
  Ranked last_kept;
  for (int group = lane; group < rule.groups; group += 32) {
    const Ranked rank = rank_of(group);
    int better = 0;
#pragma unroll 8
    for (int i = 0; i < rule.groups; ++i) better += IsBetter(rank_of(i), rank);
    if (better == rule.used_groups - 1) last_kept = rank;
  }
  last_kept = BestOfWarp(last_kept);
  for (int first = 0; first < rule.groups; first += 32) {
    const bool is_group = first + lane < rule.groups;
    uint32_t others =
        __ballot_sync(0xffffffffu, is_group && IsBetter(last_kept, rank_of(first + lane)));
    for (; others != 0; others &= others - 1) {
      float* const of_group = keys + (first + __ffs(others) - 1) * size;
      for (int i = lane; i < size; i += 32) of_group[i] = __int_as_float(0x7fffffff);
    }
  }
  __syncwarp();
}

// What a choice is made of, for a row.
class ExpertChoice {
 public:
  // Floats of shared memory.
  static __host__ __device__ size_t ScratchFloats(const RoutingRule& rule) {
    return 2 * rule.experts + rule.groups + rule.used;
  }

  __device__ __forceinline__ ExpertChoice(const RouterScores& scores, int64_t row, float* scratch)
      : rule_(scores.rule),
        logits_(scores.logits + row * scores.logits_stride),
        is_token_(scores.positions == nullptr || scores.positions[row] >= 0),
        scores_(scratch),
        keys_(scores_ + rule_.experts),
        group_scores_(keys_ + rule_.experts),
        chosen_(reinterpret_cast<int32_t*>(group_scores_ + rule_.groups)) {}

  // The chosen experts, in shared memory.
  __device__ __forceinline__ const int32_t* chosen() const { return chosen_; }

 protected:
  static __device__ __forceinline__ int Lane() { return threadIdx.x % 32; }

  __device__ __forceinline__ float ScoreOf(float logit) const {
    return rule_.gating == ExpertGating::kSigmoid ? 1.0f / (1.0f + expf(-logit)) : logit;
  }
  // What the choice goes by. `bias`: of the selection.
  static __device__ __forceinline__ float KeyOf(float score, float bias) {
    const float key = score + bias;
    return isnan(key) ? Lowest() : key;
  }

  // By one warp: `experts` and `weights` of global memory from chosen_ and, in the front of keys_,
  // the chosen ones' scores.
  __device__ __forceinline__ void Weigh(int32_t* experts, float* weights) const {
    if (rule_.gating == ExpertGating::kSoftmaxOfChosen) SoftmaxByWarp(keys_, rule_.used);
    float scale = rule_.scale;
    if (rule_.normalize) {
      float sum = 0;
      for (int i = Lane(); i < rule_.used; i += 32) sum += keys_[i];
      sum = SumOverWarp(sum);
      scale /= sum < kSmallestSum ? kSmallestSum : sum;  // not fmaxf, which would lose NaN
    }
    for (int i = Lane(); i < rule_.used; i += 32) {
      experts[i] = chosen_[i];
      weights[i] = keys_[i] * scale;
    }
  }
  // The same for a row without a token.
  __device__ __forceinline__ void ChooseNone(int32_t* experts, float* weights) const {
    for (int i = Lane(); i < rule_.used; i += 32) {
      chosen_[i] = experts[i] = -1;
      weights[i] = 0;
    }
  }

  const RoutingRule& rule_;
  const float* const logits_;
  const bool is_token_;
  float* const scores_;        // (experts)
  float* const keys_;          // (experts)
  float* const group_scores_;  // (groups)
  int32_t* const chosen_;      // (used)
};

// A row's choice by one warp: LoadBias, then Choose. kPerLane: experts a lane, rule.experts at most
// 32 times as many.
template <int kPerLane>
class ExpertChooser : public ExpertChoice {
 public:
  using ExpertChoice::ExpertChoice;

  // What need not wait for earlier kernels.
  __device__ __forceinline__ void LoadBias(const float* bias) const {
    for (int i = Lane(); i < rule_.experts; i += 32) keys_[i] = bias == nullptr ? 0.0f : bias[i];
  }

  // Chooses `experts` and `weights`, (rule.used) of global memory.
  __device__ __forceinline__ void Choose(int32_t* experts, float* weights) const {
    if (!is_token_) return ChooseNone(experts, weights);
    ScoreExperts();
    if (rule_.used_groups < rule_.groups) KeepBestGroups(rule_, keys_, group_scores_);
    TakeBest();
    Weigh(experts, weights);
  }

 private:
  // Fills scores_, and keys_ with what the choice goes by.
  __device__ __forceinline__ void ScoreExperts() const {
    float logits[kPerLane];  // all asked for at once
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = Lane() + 32 * j;
      logits[j] = i < rule_.experts ? logits_[i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = Lane() + 32 * j;
      if (i < rule_.experts) scores_[i] = ScoreOf(logits[j]);
    }
    __syncwarp();
    if (rule_.gating == ExpertGating::kSoftmax) SoftmaxByWarp(scores_, rule_.experts);
    for (int i = Lane(); i < rule_.experts; i += 32) keys_[i] = KeyOf(scores_[i], keys_[i]);
    __syncwarp();
  }

  // Fills chosen_, best first, and the front of keys_ with the chosen ones' scores.
  __device__ __forceinline__ void TakeBest() const {
    uint32_t orders[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = Lane() + 32 * j;
      orders[j] = i < rule_.experts && !isnan(keys_[i]) ? Order(keys_[i]) : kNotRanked;
    }
    __syncwarp();  // the keys' memory is about to be used for something else
    for (int k = 0; k < rule_.used; ++k) {
      // As a tournament, in which of equals the smaller j wins.
      uint32_t order[kPerLane], at[kPerLane];
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        order[j] = orders[j];
        at[j] = j;
      }
#pragma unroll
      for (int width = kPerLane / 2; width > 0; width /= 2) {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          const bool later = order[j + width] > order[j] ||
                             (order[j + width] == order[j] && at[j + width] < at[j]);
          order[j] = later ? order[j + width] : order[j];
          at[j] = later ? at[j + width] : at[j];
        }
      }
      const Ranked best = BestOfWarp({order[0], Lane() + 32 * at[0]});
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (Lane() + 32 * j == best.index) orders[j] = kNotRanked;
      }
      if (Lane() == 0) {
        chosen_[k] = static_cast<int32_t>(best.index);
        keys_[k] = scores_[best.index];
      }
    }
    __syncwarp();
  }
};

// The same choice, to the same bits, by a whole block of kWarps warps, for a row that somebody
// waits for: a thread has an expert, rule.experts are at most as many. LoadBias, LoadLogit, then
// Choose, by all threads; those of a later barrier see chosen().
template <int kWarps>
class BlockExpertChooser : public ExpertChoice {
 public:
  using ExpertChoice::ExpertChoice;

  __device__ __forceinline__ void LoadBias(const float* bias) {
    bias_ = bias != nullptr && IsExpert() ? bias[threadIdx.x] : 0.0f;
  }
  __device__ __forceinline__ void LoadLogit() { logit_ = IsExpert() ? logits_[threadIdx.x] : 0.0f; }

  __device__ __forceinline__ void Choose(int32_t* experts, float* weights) const {
    const bool is_first_warp = threadIdx.x < 32;
    if (!is_token_) {
      if (is_first_warp) ChooseNone(experts, weights);
      return;
    }
    if (IsExpert()) scores_[threadIdx.x] = ScoreOf(logit_);
    if (rule_.gating == ExpertGating::kSoftmax) {
      __syncthreads();
      if (is_first_warp) SoftmaxByWarp(scores_, rule_.experts);
      __syncthreads();
    }
    const float key = IsExpert() ? KeyOf(scores_[threadIdx.x], bias_) : 0.0f;
    uint32_t order = IsExpert() ? Order(key) : kNotRanked;
    if (rule_.used_groups < rule_.groups && !IsInBestGroups(key)) order = kNotRanked;
    TakeBest(order);
    __syncthreads();
    if (is_first_warp) Weigh(experts, weights);
  }

 private:
  __device__ __forceinline__ bool IsExpert() const {
    return static_cast<int>(threadIdx.x) < rule_.experts;
  }

  // As KeepBestGroups: whether the thread's expert, whose key this is, stays. A warp finds a
  // group's two largest keys, every thread who is better than its own group.
  __device__ __forceinline__ bool IsInBestGroups(float key) const {
    const int size = rule_.experts / rule_.groups;
    if (IsExpert()) keys_[threadIdx.x] = key;
    __syncthreads();
    for (int group = threadIdx.x / 32; group < rule_.groups; group += kWarps) {
      TopTwo top;
      for (int i = Lane(); i < size; i += 32) top.Add(keys_[group * size + i]);
      const uint32_t best = LargestOverWarp(Order(top.best));
      const unsigned with_best = __ballot_sync(0xffffffffu, Order(top.best) == best);
      const bool has_given = Lane() == __ffs(with_best) - 1;
      const uint32_t second = LargestOverWarp(Order(has_given ? top.second : top.best));
      const float sum = size == 1 ? FromOrder(best) : FromOrder(best) + FromOrder(second);
      if (Lane() == 0) group_scores_[group] = isnan(sum) ? Lowest() : sum;
    }
    __syncthreads();
    if (!IsExpert()) return false;
    const uint32_t own = threadIdx.x / size;
    const Ranked rank = {Order(group_scores_[own]), own};
    int better = 0;
#pragma unroll 8
    for (uint32_t i = 0; i < rule_.groups; ++i)
      better += IsBetter({Order(group_scores_[i]), i}, rank);
    return better < rule_.used_groups;
  }

  // As that of a warp: who is among the best of his warp is compared with those of all.
  __device__ __forceinline__ void TakeBest(uint32_t order) const {
    __shared__ uint64_t best[32 * kWarps];  // ranked by order, of equals the smaller index
    int better = 0;                         // of the warp
#pragma unroll
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t other = __shfl_sync(0xffffffffu, order, lane);
      better += other > order || (other == order && lane < Lane());
    }
    const int of_warp = min(rule_.used, 32);
    const int count = (rule_.experts + 31) / 32 * of_warp;
    const uint64_t own = static_cast<uint64_t>(order) << 32 | ~threadIdx.x;
    const bool is_candidate = better < of_warp && IsExpert();
    if (better < of_warp) best[threadIdx.x / 32 * of_warp + better] = own;
    __syncthreads();
    if (!is_candidate) return;
    int rank = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) rank += best[i] > own;
    if (rank >= rule_.used) return;
    chosen_[rank] = static_cast<int32_t>(threadIdx.x);
    keys_[rank] = scores_[threadIdx.x];
  }

  float bias_ = 0;
  float logit_ = 0;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_CHOOSE_EXPERTS_CUH_
