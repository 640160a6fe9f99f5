#include <cassert>

#include "kernels/moe/expert_order_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 1024;

struct Counts {
  int pairs;
  int tiles;
};

// Sums over the threads before this one. `of_warps` is shared memory.
__device__ __forceinline__ Counts SumBefore(Counts own, Counts (&of_warps)[kThreads / 32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Counts sum = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int pairs = __shfl_sync(0xffffffffu, sum.pairs, lane - distance);
    const int tiles = __shfl_sync(0xffffffffu, sum.tiles, lane - distance);
    if (lane < distance) continue;
    sum.pairs += pairs;
    sum.tiles += tiles;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  sum.pairs -= own.pairs;
  sum.tiles -= own.tiles;
  for (int i = 0; i < warp; ++i) {
    sum.pairs += of_warps[i].pairs;
    sum.tiles += of_warps[i].tiles;
  }
  return sum;
}

// One block. Thread t has the experts [t * per_thread, (t + 1) * per_thread).
__global__ void __launch_bounds__(kThreads)
    OrderKernel(const int32_t* chosen, int pairs, int experts, int tile_pairs, ExpertOrder order,
                int most_tiles) {
  __shared__ int next[kMaxExperts];  // first how many pairs, then where the next one goes
  __shared__ Counts of_warps[kThreads / 32];
  __shared__ int used_tiles;
  for (int i = threadIdx.x; i < experts; i += kThreads) next[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < pairs; i += kThreads) {
    if (chosen[i] >= 0) atomicAdd(&next[chosen[i]], 1);
  }
  __syncthreads();
  const int per_thread = (experts + kThreads - 1) / kThreads;
  const int begin = min(experts, static_cast<int>(threadIdx.x) * per_thread);
  const int end = min(experts, begin + per_thread);
  Counts own = {0, 0};
  for (int expert = begin; expert < end; ++expert) {
    own.pairs += next[expert];
    own.tiles += (next[expert] + tile_pairs - 1) / tile_pairs;
  }
  Counts at = SumBefore(own, of_warps);
  if (threadIdx.x == kThreads - 1) used_tiles = at.tiles + own.tiles;
  for (int expert = begin; expert < end; ++expert) {
    const int count = next[expert];
    next[expert] = at.pairs;
    for (int first = 0; first < count; first += tile_pairs) {
      order.tiles[at.tiles++] = {expert, at.pairs + first, min(tile_pairs, count - first)};
    }
    at.pairs += count;
  }
  __syncthreads();
  for (int i = used_tiles + threadIdx.x; i < most_tiles; i += kThreads) order.tiles[i] = {0, 0, 0};
  for (int i = threadIdx.x; i < pairs; i += kThreads) {
    if (chosen[i] >= 0) order.pairs[atomicAdd(&next[chosen[i]], 1)] = i;
  }
}

}  // namespace

void OrderByExpert(const ChosenExperts& chosen, int experts, int tile_pairs,
                   const ExpertOrder& order, cudaStream_t stream) {
  assert(experts <= kMaxExperts);
  const int pairs = chosen.pairs();
  if (pairs <= 0) return;
  OrderKernel<<<1, kThreads, 0, stream>>>(chosen.experts, pairs, experts, tile_pairs, order,
                                          MostExpertTiles(pairs, experts, tile_pairs));
}

}  // namespace gguf_offload::cuda
