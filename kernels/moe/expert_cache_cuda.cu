#include <algorithm>
#include <cassert>

#include "kernels/moe/choose_experts.cuh"
#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/moe/expert_slots.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/prefetch_line.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kResolveThreads = 256;
// Small blocks find room beside those of other kernels. Together they have 512 KiB on their way,
// which keeps the link busy; with more, what other kernels read from the GPU's own memory waits
// behind it.
constexpr int kFillThreads = 128;
constexpr int kFillBlocks = 32;
constexpr int kInFlight = 8;                            // pieces of 16 bytes a thread
constexpr int kRoundPieces = kInFlight * kFillThreads;  // that a block copies at a time
constexpr int kLinePieces = 128 / 16;

struct ResolveArguments {
  ChosenExperts chosen;
  ExpertPool pool;
  int first_owner;  // of the layer, in pool.slot_of
  int experts;
  ExpertFills fills;
  ExpertCounts* counts;
  int64_t expert_bytes;
};

// One block. kChooses: the choice is made first, of a single row.
template <bool kChooses>
__global__ void __launch_bounds__(kResolveThreads)
    ResolveKernel(const __grid_constant__ RouterScores scores,
                  const __grid_constant__ ResolveArguments a) {
  LetLaterKernelsBegin();
  constexpr int kWarps = kResolveThreads / 32;
  constexpr int32_t kNobody = INT32_MAX;
  extern __shared__ float scratch[];  // of the choice
  // Which pair was the first to choose an expert; when that is over, what is to be fetched.
  __shared__ union {
    int32_t first_pair[kMaxExperts];
    ExpertFill fills[kMaxExpertSlots];
  } shared;
  int32_t(&first_pair)[kMaxExperts] = shared.first_pair;
  ExpertFill(&fills)[kMaxExpertSlots] = shared.fills;
  __shared__ int32_t missing[kMaxExpertSlots];  // experts, in the order of the pairs
  __shared__ unsigned long long last_use[kMaxExpertSlots];
  __shared__ int missing_of_warp[kWarps], found_count, early_count;
  // Where experts are, and who has the slots, of as many as there is room for.
  constexpr int kNear = kResolveThreads;
  __shared__ int32_t near_slot_of[kNear], near_owner[kNear];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < a.experts; i += kResolveThreads) first_pair[i] = kNobody;
  if (threadIdx.x == 0) found_count = early_count = 0;

  const int32_t* chosen = a.chosen.experts;
  unsigned long long now = 0;
  ExpertCounts counts;
  int32_t* const slot_of = a.pool.slot_of + a.first_owner;
  // The pool's state comes nearer; who had it last may still be at work.
  const auto near = [](const auto* numbers, int count) {
    constexpr int kLine = kCacheLineBytes / sizeof(*numbers);
    for (int i = threadIdx.x * kLine; i < count; i += kResolveThreads * kLine) {
      PrefetchLine(numbers + i);
    }
  };
  near(a.pool.clock, 1);
  near(a.counts, 1);
  near(a.pool.last_use, a.pool.slots);
  near(slot_of, a.experts);
  near(a.pool.owner, a.pool.slots);
  // All that does not depend on the choice is asked for at once.
  const auto ask = [&] {
    now = *a.pool.clock + 1;
    if (threadIdx.x == 0) counts = *a.counts;
    const int slots = a.pool.slots;
    for (int i = threadIdx.x; i < max(slots, min(a.experts, kNear)); i += kResolveThreads) {
      if (i < slots) last_use[i] = a.pool.last_use[i];
      if (i < min(slots, kNear)) near_owner[i] = a.pool.owner[i];
      if (i < min(a.experts, kNear)) near_slot_of[i] = slot_of[i];
    }
  };
  if constexpr (kChooses) {
    BlockExpertChooser<kWarps> chooser(scores, 0, scratch);
    chosen = chooser.chosen();
    chooser.LoadBias(scores.selection_bias);
    AwaitEarlierKernels();
    chooser.LoadLogit();
    ask();
    chooser.Choose(a.chosen.experts, a.chosen.weights);
  } else {
    AwaitEarlierKernels();
    ask();
  }
  __syncthreads();
  const int pairs = a.chosen.rows * a.chosen.used;
  for (int pair = threadIdx.x; pair < pairs; pair += kResolveThreads) {
    if (chosen[pair] >= 0) atomicMin(&first_pair[chosen[pair]], pair);
  }
  __syncthreads();

  int missing_count = 0;
  for (int first = 0; first < pairs; first += kResolveThreads) {
    const int pair = first + threadIdx.x;
    const int expert = pair < pairs ? chosen[pair] : -1;
    const bool asks = expert >= 0 && first_pair[expert] == pair;
    int slot = -1;
    if (asks) slot = expert < kNear ? near_slot_of[expert] : slot_of[expert];
    if (slot >= 0) {
      last_use[slot] = now;
      a.pool.last_use[slot] = now;
      atomicAdd(&found_count, 1);
      if (a.pool.early_for != nullptr && a.pool.early_for[slot] == now) atomicAdd(&early_count, 1);
    }
    const unsigned misses = __ballot_sync(0xffffffffu, asks && slot < 0);
    if (lane == 0) missing_of_warp[warp] = __popc(misses);
    __syncthreads();
    int before = missing_count + __popc(misses & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += missing_of_warp[w];
      missing_count += missing_of_warp[w];
    }
    if (asks && slot < 0) missing[before] = expert;
    __syncthreads();
  }

  ChooseSlots(last_use, a.pool.slots, now, missing, missing_count, fills);
  __syncthreads();
  for (int i = threadIdx.x; i < missing_count; i += kResolveThreads) {
    const ExpertFill fill = fills[i];
    a.fills.fills[i] = fill;
    const int owner = fill.slot < kNear ? near_owner[fill.slot] : a.pool.owner[fill.slot];
    PassSlot(a.pool, owner, a.first_owner, fill);
    a.pool.last_use[fill.slot] = now;
    if (a.fills.told_fills != nullptr) a.fills.told_fills[i] = fill;
  }
  if (threadIdx.x < kMaxFillParts) a.fills.begun[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    *a.fills.count = missing_count;
    if (a.fills.told_count != nullptr) *a.fills.told_count = missing_count;
    *a.pool.clock = now;
    a.counts->hits = counts.hits + found_count;
    a.counts->misses = counts.misses + missing_count;
    a.counts->bytes = counts.bytes + missing_count * a.expert_bytes;
    a.counts->early_used = counts.early_used + early_count;
  }
}

__global__ void NothingKernel() {}

struct FillArguments {
  ExpertFills fills;
  int number;      // of the part
  int first;       // fill
  int end;         // that there may be
  int32_t* begun;  // rounds that blocks have taken, but for the first of each
  ExpertSource sources[3];
  int first_rounds[3];  // of a matrix
  int rounds[3];        // that it takes, wherever it begins; 0: it is not asked for
  uint8_t* slots;
  int64_t slot_stride;
};

// Blocks take rounds as they come to them, as the link serves some faster than others, and the last
// one left would not keep it busy. Nor does it rest between two parts: the later one begins when
// all rounds of the earlier are taken, while the last of them are still on their way.
__global__ void __launch_bounds__(kFillThreads)
    FillKernel(const __grid_constant__ FillArguments a) {
  // What is to be filled was known before the first part began.
  if (a.number == 0) AwaitEarlierKernels();
  __shared__ int taken[2];
  const int fill_rounds = a.rounds[0] + a.rounds[1] + a.rounds[2];
  // The link rests until the first rounds are on their way: each block has one of its own, and asks
  // for what it needs to know of it before it knows whether there is one.
  int round = static_cast<int>(blockIdx.x);
  int index = min(a.first + round / fill_rounds, a.end - 1);
  ExpertFill fill = a.fills.fills[index];
  const int rounds = (min(a.end, *a.fills.count) - a.first) * fill_rounds;
  for (int turn = 0; round < rounds; turn = 1 - turn) {
    if (threadIdx.x == 0) {  // the next one, while this one is copied
      taken[turn] = static_cast<int>(gridDim.x) + atomicAdd(a.begun, 1);
      if (taken[turn] >= rounds) LetLaterKernelsBegin();
    }
    if (a.first + round / fill_rounds != index) {
      index = a.first + round / fill_rounds;
      fill = a.fills.fills[index];
    }
    int part = round % fill_rounds, matrix = 0;
    while (part >= a.rounds[matrix]) part -= a.rounds[matrix++];
    part += a.first_rounds[matrix];
    const ExpertSource& source = a.sources[matrix];
    const uint8_t* from =
        source.data + fill.expert * (source.stride != 0 ? source.stride : source.bytes);
    const int64_t phase = reinterpret_cast<uintptr_t>(from) & 15;
    int64_t pieces = (phase + source.bytes + 15) / 16;
    if (a.fills.entries != nullptr) {
      const uint8_t* const entry = a.fills.entries[index];
      if (entry == nullptr) pieces = 0;
      from = entry + source.offset + phase;
    }
    // A warp reads whole lines: the first piece of the first round is one that begins a line.
    const auto before = static_cast<int>(reinterpret_cast<uintptr_t>(from) / 16 % kLinePieces);
    const int64_t first = int64_t{part} * kRoundPieces + threadIdx.x - before;
    const uint4* const pieces_from = reinterpret_cast<const uint4*>(from - phase);
    uint4* const to = reinterpret_cast<uint4*>(a.slots + fill.slot * a.slot_stride + source.offset);
    uint4 loaded[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t piece = first + i * kFillThreads;
      if (piece >= 0 && piece < pieces) loaded[i] = __ldcs(pieces_from + piece);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t piece = first + i * kFillThreads;
      // They make room first: what other kernels need stays in the cache.
      if (piece >= 0 && piece < pieces) __stcs(to + piece, loaded[i]);
    }
    __syncthreads();
    round = taken[turn];
  }
}

}  // namespace

void ResolveExperts(const ChosenExperts& chosen, const RouterScores* scores, const ExpertPool& pool,
                    int layer, int experts, const ExpertFills& fills, ExpertCounts* counts,
                    int64_t expert_bytes, cudaStream_t stream) {
  assert(chosen.pairs() <= pool.slots || experts <= pool.slots);
  if (chosen.pairs() <= 0) return;
  const ResolveArguments a = {chosen, pool, layer * experts, experts, fills, counts, expert_bytes};
  if (scores == nullptr) {
    return LaunchDependent(ResolveKernel<false>, 1, kResolveThreads, 0, stream, RouterScores(), a);
  }
  static_assert(kMostResolvedExperts <= kResolveThreads);
  assert(CanChooseAndResolve(scores->rule, chosen.rows));
  const size_t scratch = ExpertChoice::ScratchFloats(scores->rule) * sizeof(float);
  LaunchDependent(ResolveKernel<true>, 1, kResolveThreads, scratch, stream, *scores, a);
}

void LetFillsBegin(cudaStream_t stream) { NothingKernel<<<1, 1, 0, stream>>>(); }

void FillSlots(const ExpertFills& fills, const FillPart& part, const ExpertSource (&sources)[3],
               uint8_t* slots, int64_t slot_stride, cudaStream_t stream) {
  assert(part.number < kMaxFillParts);
  if (part.first >= part.end) return;
  FillArguments a = {
      .fills = fills,
      .number = part.number,
      .first = part.first,
      .end = part.end,
      .begun = fills.begun + part.number,
      .sources = {sources[0], sources[1], sources[2]},
      .first_rounds = {},
      .rounds = {},
      .slots = slots,
      .slot_stride = slot_stride,
  };
  // Rounds that the first `bytes` of a matrix take.
  const auto rounds = [](int64_t bytes) {
    const int64_t most_pieces = kLinePieces - 1 + (15 + bytes + 15) / 16;
    return bytes <= 0 ? 0 : static_cast<int>((most_pieces + kRoundPieces - 1) / kRoundPieces);
  };
  for (int i = part.first_matrix; i < part.end_matrix; ++i) {
    const bool last = i + 1 == part.end_matrix;
    a.first_rounds[i] = rounds(last ? std::min(part.first_byte, sources[i].bytes) : 0);
    a.rounds[i] = rounds(last ? std::min(part.end_byte, sources[i].bytes) : sources[i].bytes) -
                  a.first_rounds[i];
  }
  // What a small matrix has is brought by the part before.
  if (a.rounds[0] + a.rounds[1] + a.rounds[2] == 0) return;
  LaunchDependent(FillKernel, kFillBlocks, kFillThreads, 0, stream, a);
}

}  // namespace gguf_offload::cuda
