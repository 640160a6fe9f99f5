#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/ops/dependent_launch.cuh"

#include <algorithm>

namespace gguf_offload::cuda {
namespace {

constexpr int kWarps = 4;  // a block

// A warp a group: columns in the grid's x, rows in its y.
__global__ void QuantizeRowsKernel(const float* x, int64_t x_stride, int n, QuantizedRows out) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int64_t group = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (group >= out.columns / 32) return;
  const int64_t column = 32 * group + threadIdx.x % 32;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    QuantizeGroup(x[row * x_stride + column], row, group, out);
  }
}

}  // namespace

void QuantizeRows(const float* x, int64_t x_stride, int n, const QuantizedRows& out,
                  cudaStream_t stream) {
  if (n <= 0 || out.columns <= 0) return;
  const int64_t groups = out.columns / 32;
  const dim3 grid(static_cast<unsigned>((groups + kWarps - 1) / kWarps), std::min(n, 65535));
  LaunchDependent(QuantizeRowsKernel, grid, 32 * kWarps, 0, stream, x, x_stride, n, out);
}

}  // namespace gguf_offload::cuda
