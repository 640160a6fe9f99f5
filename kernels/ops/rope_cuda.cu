#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/rope_cuda.h"
#include "kernels/ops/rotate_head.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kWarps = 4;       // of a block, each with a head of its own
constexpr int kMostRounds = 8;  // of 64 elements, for heads of up to 512

__global__ void __launch_bounds__(128)
    AnglesKernel(const double* radians, float magnitude, const int32_t* positions, int rows,
                 int pairs, float2* angles) {
  // In this order: once the step's inputs are there, all later kernels may read them at once.
  AwaitEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<int64_t>(rows) * pairs) return;
  double sine, cosine;
  sincos(positions[i / pairs] * radians[i % pairs], &sine, &cosine);
  angles[i] =
      make_float2(static_cast<float>(cosine * magnitude), static_cast<float>(sine * magnitude));
}

// Warps of a row: the query heads, then the key heads, then the value heads.
template <int kRounds>
__global__ void __launch_bounds__(32 * kWarps)
    RotateAndStoreKernel(const __grid_constant__ RotateAndStore a) {
  LetLaterKernelsBegin();
  const int64_t row = blockIdx.y;
  int head = blockIdx.x * kWarps + threadIdx.x / 32;
  const int kv_heads = a.layer.kv_heads, key_dim = a.layer.key_dim;
  const int position = a.positions[row];
  const bool has_work = head < a.heads + 2 * kv_heads && position >= 0;
  int64_t page = 0;
  if (has_work && head >= a.heads) page = a.pages[a.row_pages[row] + position / kPageTokens];
  HeadRotation<kRounds> rotation;
  if (has_work && head < a.heads + kv_heads) {
    rotation.LoadWeights(a, head < a.heads ? a.q_norm : a.k_norm);
  }
  AwaitEarlierKernels();
  if (!has_work) return;
  if (head < a.heads) {
    float* q = a.q + row * a.q_stride + head * key_dim;
    rotation.Load(a, row, q);
    rotation.Finish(a, [q](int i, float value) { q[i] = value; });
    return;
  }
  head -= a.heads;
  const bool is_key = head < kv_heads;
  if (!is_key) head -= kv_heads;
  const int64_t slot = (page * kv_heads + head) * kPageTokens + position % kPageTokens;
  if (is_key) {
    __half* const to = a.layer.keys + slot * key_dim;
    rotation.Load(a, row, a.k + row * a.k_stride + head * key_dim);
    rotation.Finish(a, [to](int i, float value) { to[i] = __float2half_rn(value); });
    return;
  }
  const int value_dim = a.layer.value_dim;
  const float2* v = reinterpret_cast<const float2*>(a.v + row * a.v_stride + head * value_dim);
  __half2* to = reinterpret_cast<__half2*>(a.layer.values + slot * value_dim);
  for (int i = threadIdx.x % 32; i < value_dim / 2; i += 32) to[i] = __float22half2_rn(v[i]);
}

}  // namespace

void ComputeRopeAngles(const double* radians, float magnitude, const int32_t* positions, int rows,
                       int pairs, float2* angles, cudaStream_t stream) {
  const int64_t count = static_cast<int64_t>(rows) * pairs;
  if (count <= 0) return;
  LaunchDependent(AnglesKernel, static_cast<unsigned>((count + 127) / 128), 128, 0, stream, radians,
                  magnitude, positions, rows, pairs, angles);
}

void RotateAndStoreKv(const RotateAndStore& a, cudaStream_t stream) {
  const int warps = a.heads + 2 * a.layer.kv_heads;
  if (a.rows <= 0 || warps <= 0) return;
  const dim3 grid((warps + kWarps - 1) / kWarps, static_cast<unsigned>(a.rows));
  if (a.layer.key_dim <= 64) {
    LaunchDependent(RotateAndStoreKernel<1>, grid, 32 * kWarps, 0, stream, a);
  } else if (a.layer.key_dim <= 128) {
    LaunchDependent(RotateAndStoreKernel<2>, grid, 32 * kWarps, 0, stream, a);
  } else {
    LaunchDependent(RotateAndStoreKernel<kMostRounds>, grid, 32 * kWarps, 0, stream, a);
  }
}

}  // namespace gguf_offload::cuda
