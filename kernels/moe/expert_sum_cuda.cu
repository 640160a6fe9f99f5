#include "kernels/moe/expert_sum_cuda.h"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 128;

// Four columns a thread; rows in the grid's y.
__global__ void __launch_bounds__(kThreads)
    AddWeightedExpertsKernel(ChosenExperts chosen, const float* y, int64_t y_stride, int vectors,
                             float* out, int64_t out_stride, uint32_t* uses) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int64_t row = blockIdx.y;
  const int vector = blockIdx.x * kThreads + threadIdx.x;
  const int64_t first = row * chosen.used;
  const bool any = chosen.experts[first] >= 0;
  if (vector < vectors) {
    // What there is to be added is asked for before it is known whether there is anything.
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < chosen.used; ++i) {
      const float weight = chosen.weights[first + i];
      const float4 v = reinterpret_cast<const float4*>(y + (first + i) * y_stride)[vector];
      sum.x = fmaf(weight, v.x, sum.x);
      sum.y = fmaf(weight, v.y, sum.y);
      sum.z = fmaf(weight, v.z, sum.z);
      sum.w = fmaf(weight, v.w, sum.w);
    }
    float4& to = reinterpret_cast<float4*>(out + row * out_stride)[vector];
    const float4 old = to;
    if (any) to = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
  }
  if (!any || uses == nullptr || blockIdx.x != 0) return;
  for (int i = threadIdx.x; i < chosen.used; i += kThreads) {
    atomicAdd(&uses[chosen.experts[first + i]], 1u);
  }
}

__global__ void __launch_bounds__(kThreads)
    AddGatedKernel(const float* x, int64_t x_stride, const float* gate, int64_t gate_stride,
                   int64_t cols, float* out, int64_t out_stride) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int64_t row = blockIdx.y;
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= cols) return;
  const float sigmoid = 1.0f / (1.0f + expf(-gate[row * gate_stride]));
  out[row * out_stride + column] += sigmoid * x[row * x_stride + column];
}

unsigned Blocks(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

void AddWeightedExperts(const ChosenExperts& chosen, const float* y, int64_t y_stride, int64_t cols,
                        float* out, int64_t out_stride, uint32_t* uses, cudaStream_t stream) {
  if (chosen.rows <= 0 || cols <= 0) return;
  const dim3 grid(Blocks(cols / 4), chosen.rows);
  LaunchDependent(AddWeightedExpertsKernel, grid, kThreads, 0, stream, chosen, y, y_stride,
                  static_cast<int>(cols / 4), out, out_stride, uses);
}

void AddGated(const float* x, int64_t x_stride, const float* gate, int64_t gate_stride, int rows,
              int64_t cols, float* out, int64_t out_stride, cudaStream_t stream) {
  if (rows <= 0 || cols <= 0) return;
  LaunchDependent(AddGatedKernel, dim3(Blocks(cols), rows), kThreads, 0, stream, x, x_stride, gate,
                  gate_stride, cols, out, out_stride);
}

}  // namespace gguf_offload::cuda
