#include <algorithm>
#include <cassert>

#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kResolveThreads = 256;
constexpr int kFillThreads = 512;
constexpr int kFillBlocks = 8;  // of each matrix
constexpr int kInFlight = 4;    // pieces of 16 bytes a thread

struct ResolveArguments {
  const int32_t* chosen;
  int pairs;
  ExpertPool pool;
  int first_owner;  // of the layer, in pool.slot_of
  int experts;
  ExpertFills fills;
  ExpertCounts* counts;
  int64_t expert_bytes;
};

// Marks of experts.
constexpr uint8_t kNotWanted = 0, kFound = 1, kMissing = 2;

// One block.
__global__ void __launch_bounds__(kResolveThreads)
    ResolveKernel(const __grid_constant__ ResolveArguments a) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  __shared__ uint8_t marks[kMaxExperts];
  __shared__ int32_t missing[kMaxExpertSlots];  // experts, in their order
  __shared__ unsigned long long last_use[kMaxExpertSlots];
  __shared__ int found_count, missing_count, early_count;
  const unsigned long long now = *a.pool.clock + 1;
  int32_t* const slot_of = a.pool.slot_of + a.first_owner;
  for (int i = threadIdx.x; i < a.experts; i += kResolveThreads) marks[i] = kNotWanted;
  if (threadIdx.x == 0) found_count = missing_count = early_count = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < a.pairs; i += kResolveThreads) {
    if (a.chosen[i] >= 0) marks[a.chosen[i]] = kFound;
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < a.experts; expert += kResolveThreads) {
    if (marks[expert] == kNotWanted) continue;
    const int slot = slot_of[expert];
    if (slot >= 0) {
      a.pool.last_use[slot] = now;
      atomicAdd(&found_count, 1);
      if (a.pool.early_for != nullptr && a.pool.early_for[slot] == now) atomicAdd(&early_count, 1);
    } else {
      marks[expert] = kMissing;
      atomicAdd(&missing_count, 1);
    }
  }
  __syncthreads();
  if (missing_count > 0) {
    for (int expert = threadIdx.x; expert < a.experts; expert += kResolveThreads) {
      if (marks[expert] != kMissing) continue;
      int before = 0;
      for (int i = 0; i < expert; ++i) before += marks[i] == kMissing;
      missing[before] = expert;
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < a.pool.slots; slot += kResolveThreads) {
      last_use[slot] = a.pool.last_use[slot];
    }
    __syncthreads();
    // The slots unused for the longest time, of equals the first.
    for (int slot = threadIdx.x; slot < a.pool.slots; slot += kResolveThreads) {
      const unsigned long long used = last_use[slot];
      if (used == now) continue;
      int older = 0;
#pragma unroll 8
      for (int i = 0; i < a.pool.slots; ++i) {
        older += last_use[i] < used || (last_use[i] == used && i < slot);
      }
      if (older < missing_count) a.fills.fills[older] = {missing[older], slot};
    }
    __syncthreads();
    for (int i = threadIdx.x; i < missing_count; i += kResolveThreads) {
      const ExpertFill fill = a.fills.fills[i];
      const int owner = a.pool.owner[fill.slot];
      if (owner >= 0) a.pool.slot_of[owner] = -1;
      a.pool.owner[fill.slot] = a.first_owner + fill.expert;
      a.pool.last_use[fill.slot] = now;
      slot_of[fill.expert] = fill.slot;
      if (a.fills.told_fills != nullptr) a.fills.told_fills[i] = fill;
    }
  }
  if (threadIdx.x == 0) {
    *a.fills.count = missing_count;
    if (a.fills.told_count != nullptr) *a.fills.told_count = missing_count;
    *a.pool.clock = now;
    a.counts->hits += found_count;
    a.counts->misses += missing_count;
    a.counts->bytes += missing_count * a.expert_bytes;
    a.counts->early_used += early_count;
  }
}

struct FillArguments {
  ExpertFills fills;
  ExpertSource sources[3];
  uint8_t* slots;
  int64_t slot_stride;
};

// Grid: (3 * kFillBlocks, most fills).
__global__ void __launch_bounds__(kFillThreads)
    FillKernel(const __grid_constant__ FillArguments a) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  if (static_cast<int>(blockIdx.y) >= *a.fills.count) return;
  const ExpertFill fill = a.fills.fills[blockIdx.y];
  const ExpertSource& source = a.sources[blockIdx.x / kFillBlocks];
  const uint8_t* from = source.data + fill.expert * source.bytes;
  const int64_t phase = reinterpret_cast<uintptr_t>(from) & 15;
  if (a.fills.entries != nullptr) {
    const uint8_t* const entry = a.fills.entries[blockIdx.y];
    if (entry == nullptr) return;
    from = entry + source.offset + phase;
  }
  const int64_t pieces = (phase + source.bytes + 15) / 16;
  const uint4* const pieces_from = reinterpret_cast<const uint4*>(from - phase);
  uint4* const to = reinterpret_cast<uint4*>(a.slots + fill.slot * a.slot_stride + source.offset);
  constexpr int64_t kStep = kFillBlocks * kFillThreads;
  for (int64_t first = (blockIdx.x % kFillBlocks) * kFillThreads + threadIdx.x; first < pieces;
       first += kInFlight * kStep) {
    uint4 loaded[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kStep < pieces) loaded[i] = __ldcs(pieces_from + first + i * kStep);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kStep < pieces) to[first + i * kStep] = loaded[i];
    }
  }
}

}  // namespace

void ResolveExperts(const ChosenExperts& chosen, const ExpertPool& pool, int layer, int experts,
                    const ExpertFills& fills, ExpertCounts* counts, int64_t expert_bytes,
                    cudaStream_t stream) {
  assert(chosen.pairs() <= pool.slots || experts <= pool.slots);
  if (chosen.pairs() <= 0) return;
  const ResolveArguments a = {chosen.experts, chosen.pairs(), pool,   layer * experts,
                              experts,        fills,          counts, expert_bytes};
  LaunchDependent(ResolveKernel, 1, kResolveThreads, 0, stream, a);
}

void FillSlots(const ExpertFills& fills, int most, const ExpertSource (&sources)[3], uint8_t* slots,
               int64_t slot_stride, cudaStream_t stream) {
  if (most <= 0) return;
  const FillArguments a = {fills, {sources[0], sources[1], sources[2]}, slots, slot_stride};
  LaunchDependent(FillKernel, dim3(3 * kFillBlocks, most), kFillThreads, 0, stream, a);
}

}  // namespace gguf_offload::cuda
