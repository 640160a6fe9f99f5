#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/latent_rope_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kWarps = 4;  // of a block, each with a head of its own

__device__ __forceinline__ void Store(float* to, int i, float value) { to[i] = value; }
__device__ __forceinline__ void Store(__half* to, int i, float value) {
  to[i] = __float2half_rn(value);
}

template <typename T>
__device__ __forceinline__ void RotateByWarp(const RotateAndStoreLatent& a, int64_t row,
                                             const float* from, T* to) {
  const int lane = threadIdx.x % 32;
  const bool neox = a.style == RopeStyle::kNeox;
  for (int pair = lane; pair < a.pairs; pair += 32) {
    const int first = neox ? pair : 2 * pair, second = neox ? pair + a.pairs : 2 * pair + 1;
    const float2 angle = a.angles[row * a.pairs + pair];
    const float x = from[first], y = from[second];
    Store(to, first, x * angle.x - y * angle.y);
    Store(to, second, x * angle.y + y * angle.x);
  }
  for (int i = 2 * a.pairs + lane; i < a.rope_dim; i += 32) Store(to, i, from[i]);
}

// Warps of a row: the query heads, then the key.
__global__ void __launch_bounds__(32 * kWarps)
    RotateAndStoreLatentKernel(const __grid_constant__ RotateAndStoreLatent a) {
  LetLaterKernelsBegin();
  const int64_t row = blockIdx.y;
  const int head = blockIdx.x * kWarps + threadIdx.x / 32;
  const int position = a.positions[row];
  AwaitEarlierKernels();
  if (head > a.heads || position < 0) return;
  if (head < a.heads) {
    RotateByWarp(a, row, a.q + row * a.q_stride + head * a.q_head_stride,
                 a.rotated + row * a.rotated_stride + head * a.rotated_head_stride);
    return;
  }
  const int64_t page = a.pages[a.row_pages[row] + position / kPageTokens];
  const int key_dim = a.layer.key_dim, plain = key_dim - a.rope_dim;
  const float* key = a.key + row * a.key_stride;
  __half* to = a.layer.keys + (page * kPageTokens + position % kPageTokens) * key_dim;
  constexpr int kAtOnce = 8;  // that a lane has on their way
  for (int first = threadIdx.x % 32; first < plain; first += 32 * kAtOnce) {
    float values[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + 32 * j < plain) values[j] = key[first + 32 * j];
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (first + 32 * j < plain) Store(to, first + 32 * j, values[j]);
    }
  }
  RotateByWarp(a, row, key + plain, to + plain);
}

}  // namespace

void RotateAndStoreLatentKv(const RotateAndStoreLatent& a, cudaStream_t stream) {
  if (a.rows <= 0) return;
  const dim3 grid((a.heads + 1 + kWarps - 1) / kWarps, static_cast<unsigned>(a.rows));
  LaunchDependent(RotateAndStoreLatentKernel, grid, 32 * kWarps, 0, stream, a);
}

}  // namespace gguf_offload::cuda
