#include "kernels/ops/activation_cuda.h"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/quantize_four.cuh"
#include "kernels/ops/swiglu.cuh"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

struct ClampedSwiGluStep {
  float alpha;
  float limit;

  // Comparisons instead of fminf and fmaxf, which lose NaN.
  __device__ __forceinline__ float operator()(float gate, float up) const {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return Swish(gate, alpha) * (up + 1.0f);
  }
};

struct GatedArguments {
  const float* gate;
  int64_t gate_stride;
  const float* up;
  int64_t up_stride;
  int rows;
  int cols;
  float* out;
  int64_t out_stride;
  QuantizedRows quantized;
};

// A thread computes four elements; whole warps reach the quantization.
template <typename Step>
__global__ void __launch_bounds__(128)
    GatedKernel(const __grid_constant__ GatedArguments a, Step step) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int64_t row = blockIdx.y;
  const int vector = blockIdx.x * blockDim.x + threadIdx.x;
  const bool valid = vector < a.cols / 4;
  float4 result = make_float4(0, 0, 0, 0);
  if (valid) {
    const float4 g = reinterpret_cast<const float4*>(a.gate + row * a.gate_stride)[vector];
    const float4 u = reinterpret_cast<const float4*>(a.up + row * a.up_stride)[vector];
    result = make_float4(step(g.x, u.x), step(g.y, u.y), step(g.z, u.z), step(g.w, u.w));
    if (a.out != nullptr) {
      reinterpret_cast<float4*>(a.out + row * a.out_stride)[vector] = result;
    }
  }
  if (a.quantized.q != nullptr) QuantizeFour(result, valid, row, vector, a.quantized);
}

// Any number of columns and any alignment.
template <typename Step>
__global__ void __launch_bounds__(128)
    AnyGatedKernel(const __grid_constant__ GatedArguments a, Step step) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int64_t row = blockIdx.y;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.cols) return;  // whole warps where the columns are a multiple of 32
  const float result = step(a.gate[row * a.gate_stride + i], a.up[row * a.up_stride + i]);
  if (a.out != nullptr) a.out[row * a.out_stride + i] = result;
  if (a.quantized.q != nullptr) QuantizeGroup(result, row, i / 32, a.quantized);
}

template <typename Step>
void Launch(const GatedArguments& a, Step step, cudaStream_t stream) {
  if (a.rows <= 0 || a.cols <= 0) return;
  const unsigned rows = a.rows;
  if (a.cols % 4 == 0 && SixteenByteRows(a.gate, a.gate_stride) &&
      SixteenByteRows(a.up, a.up_stride) && SixteenByteRows(a.out, a.out_stride)) {
    LaunchDependent(GatedKernel<Step>, dim3((a.cols / 4 + 127) / 128, rows), 128, 0, stream, a,
                    step);
  } else {
    LaunchDependent(AnyGatedKernel<Step>, dim3((a.cols + 127) / 128, rows), 128, 0, stream, a,
                    step);
  }
}

}  // namespace

void SwiGlu(const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int rows,
            int cols, float* out, int64_t out_stride, const QuantizedRows& quantized,
            cudaStream_t stream) {
  Launch({gate, gate_stride, up, up_stride, rows, cols, out, out_stride, quantized}, SwiGluStep(),
         stream);
}

void ClampedSwiGlu(const float* gate, int64_t gate_stride, const float* up, int64_t up_stride,
                   float alpha, float limit, int rows, int cols, float* out, int64_t out_stride,
                   const QuantizedRows& quantized, cudaStream_t stream) {
  Launch({gate, gate_stride, up, up_stride, rows, cols, out, out_stride, quantized},
         ClampedSwiGluStep{alpha, limit}, stream);
}

void Silu(const float* x, int64_t x_stride, int rows, int cols, float* out, int64_t out_stride,
          const QuantizedRows& quantized, cudaStream_t stream) {
  Launch({x, x_stride, x, x_stride, rows, cols, out, out_stride, quantized}, SiluStep(), stream);
}

}  // namespace gguf_offload::cuda
