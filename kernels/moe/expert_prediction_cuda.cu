#include <algorithm>

#include "kernels/moe/expert_prediction_cuda.h"
#include "kernels/moe/expert_slots.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 256;

struct GuessArguments {
  const int32_t* chosen;
  const float* weights;
  int pairs;
  int most;
  ExpertPool pool;
  int first_owner;  // of the layer, in pool.slot_of
  int experts;
  ExpertFills fills;
  ExpertCounts* counts;
  int64_t expert_bytes;
};

// How much an expert is wanted: larger for larger weights, 0 if not at all. Weights are not
// negative; NaN counts as the smallest.
constexpr uint32_t kNotWanted = 0;
__device__ __forceinline__ uint32_t WishFor(float weight) {
  return weight > 0 ? 1 + __float_as_uint(weight) : 1;
}

// The time of slots that are not to be taken: after all others.
constexpr unsigned long long kKept = ~0ull;

// One block.
__global__ void __launch_bounds__(kThreads) GuessKernel(const __grid_constant__ GuessArguments a) {
  __shared__ uint32_t wishes[kMaxExperts];
  __shared__ int32_t missing[kMaxExpertSlots];  // experts, the most wanted first
  __shared__ unsigned long long last_use[kMaxExpertSlots];
  __shared__ int missing_count, kept_count;
  int32_t* const slot_of = a.pool.slot_of + a.first_owner;
  for (int i = threadIdx.x; i < a.experts; i += kThreads) wishes[i] = kNotWanted;
  for (int slot = threadIdx.x; slot < a.pool.slots; slot += kThreads) {
    last_use[slot] = a.pool.last_use[slot];
  }
  if (threadIdx.x == 0) missing_count = kept_count = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < a.pairs; i += kThreads) {
    if (a.chosen[i] >= 0) atomicMax(&wishes[a.chosen[i]], WishFor(a.weights[i]));
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < a.experts; expert += kThreads) {
    if (wishes[expert] == kNotWanted) continue;
    const int slot = slot_of[expert];
    if (slot >= 0) {
      wishes[expert] = kNotWanted;  // it is there
      last_use[slot] = kKept;
      atomicAdd(&kept_count, 1);
    } else {
      atomicAdd(&missing_count, 1);
    }
  }
  __syncthreads();
  const int count = min(min(missing_count, a.most), a.pool.slots - kept_count);
  for (int expert = threadIdx.x; expert < a.experts; expert += kThreads) {
    const uint32_t wish = wishes[expert];
    if (wish == kNotWanted) continue;
    int before = 0;
    for (int i = 0; i < a.experts; ++i) {
      before += wishes[i] > wish || (wishes[i] == wish && i < expert);
    }
    if (before < count) missing[before] = expert;
  }
  __syncthreads();
  ChooseSlots(last_use, a.pool.slots, kKept, missing, count, a.fills.fills);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const ExpertFill fill = a.fills.fills[i];
    PassSlot(a.pool, a.pool.owner[fill.slot], a.first_owner, fill);
    a.pool.early_for[fill.slot] = *a.pool.clock + 1;
  }
  if (threadIdx.x == 0) {
    *a.fills.count = count;
    a.fills.begun[0] = 0;
    a.counts->early += count;
    a.counts->early_bytes += count * a.expert_bytes;
  }
}

}  // namespace

void ResolveGuess(const ChosenExperts& guess, int most, const ExpertPool& pool, int layer,
                  int experts, const ExpertFills& fills, ExpertCounts* counts, int64_t expert_bytes,
                  cudaStream_t stream) {
  if (guess.pairs() <= 0 || most <= 0) return;
  const GuessArguments a = {guess.experts,   guess.weights, guess.pairs(), most,   pool,
                            layer * experts, experts,       fills,         counts, expert_bytes};
  GuessKernel<<<1, kThreads, 0, stream>>>(a);
}

}  // namespace gguf_offload::cuda
