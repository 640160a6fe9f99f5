#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/gather_cuda.h"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

// T: float4 where rows are aligned, else float. Strides and cols count T.
template <typename T>
__global__ void GatherKernel(const T* x, int64_t x_stride, const int32_t* rows, int cols, T* out,
                             int64_t out_stride) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int32_t row = rows[blockIdx.y];
  if (i < cols && row >= 0) out[blockIdx.y * out_stride + i] = x[row * x_stride + i];
}

}  // namespace

void GatherRows(const float* x, int64_t x_stride, const int32_t* rows, int n, int cols, float* out,
                int64_t out_stride, cudaStream_t stream) {
  if (n <= 0 || cols <= 0) return;
  const unsigned count = n;
  if (cols % 4 == 0 && SixteenByteRows(x, x_stride) && SixteenByteRows(out, out_stride)) {
    LaunchDependent(GatherKernel<float4>, dim3((cols / 4 + 127) / 128, count), 128, 0, stream,
                    reinterpret_cast<const float4*>(x), x_stride / 4, rows, cols / 4,
                    reinterpret_cast<float4*>(out), out_stride / 4);
  } else {
    LaunchDependent(GatherKernel<float>, dim3((cols + 127) / 128, count), 128, 0, stream, x,
                    x_stride, rows, cols, out, out_stride);
  }
}

}  // namespace gguf_offload::cuda
