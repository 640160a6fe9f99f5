#include <cmath>

#include "kernels/ops/argmax_cuda.h"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 4;

constexpr uint32_t kOrderOfMinusInfinity = 0x007fffff;

// Larger for larger values and, among equal values, for smaller indices; largest for NaN and plus
// infinity, whose index reads as -1.
__device__ __forceinline__ unsigned long long Order(float value, uint32_t index) {
  if (!(value < INFINITY)) return 0xffffffff00000000ull;
  if (value == 0) value = 0;  // of either sign
  const uint32_t bits = __float_as_uint(value);
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - index);
}

__device__ __forceinline__ unsigned long long MaxOverWarp(unsigned long long value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = max(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

// Several blocks a row; the last of them to finish writes the answer and clears the cell.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    ArgMaxKernel(const float* logits, int64_t stride, int columns, int32_t* out,
                 ArgMaxCell* cells) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  __shared__ unsigned long long warp_best[kThreads / 32];
  const int row = blockIdx.y;
  const float* values = logits + row * stride;
  // Below any element's order.
  unsigned long long best = 0;
  const int first = blockIdx.x * kThreads * kVectorsPerThread + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kVectorsPerThread; ++j) {
    const int i = 4 * (first + j * kThreads);
    if (kAligned && i + 4 <= columns) {
      const float4 v = *reinterpret_cast<const float4*>(values + i);
      best = max(best, max(max(Order(v.x, i), Order(v.y, i + 1)),
                           max(Order(v.z, i + 2), Order(v.w, i + 3))));
    } else {
      for (int k = i; k < columns && k < i + 4; ++k) best = max(best, Order(values[k], k));
    }
  }
  best = MaxOverWarp(best);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) warp_best[warp] = best;
  __syncthreads();
  if (warp != 0) return;
  best = MaxOverWarp(lane < kThreads / 32 ? warp_best[lane] : 0);
  if (lane != 0) return;
  ArgMaxCell& cell = cells[row];
  atomicMax(&cell.best, best);
  __threadfence();
  if (atomicInc(&cell.blocks_done, gridDim.x - 1) != gridDim.x - 1) return;  // it wraps to zero
  __threadfence();
  best = atomicExch(&cell.best, 0ull);
  const bool any = static_cast<uint32_t>(best >> 32) != kOrderOfMinusInfinity;
  out[row] = any ? static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best)) : -1;
}

}  // namespace

void ArgMax(const float* logits, int64_t stride, int rows, int columns, int32_t* out,
            ArgMaxCell* cells, cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  constexpr int kPerBlock = 4 * kThreads * kVectorsPerThread;
  const dim3 grid((columns + kPerBlock - 1) / kPerBlock, static_cast<unsigned>(rows));
  const auto kernel = SixteenByteRows(logits, stride) ? ArgMaxKernel<true> : ArgMaxKernel<false>;
  LaunchDependent(kernel, grid, kThreads, 0, stream, logits, stride, columns, out, cells);
}

}  // namespace gguf_offload::cuda
