// Products of weight matrices in plain numbers (F32, F16, BF16) with a few columns of float32
// activations, on the GPU: nothing is rounded but the float32 sums.
#ifndef KERNELS_MATMUL_FLOAT_MATVEC_CUDA_H_
#define KERNELS_MATMUL_FLOAT_MATVEC_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/matmul/matvec_matrix.h"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Whether weights of this type can be multiplied here: F32, F16 and BF16.
bool IsFloatMatVecType(quant::TensorType type);

// For each matrix: y[i][r] = sum over c of weight[r][c] * x[i][c], plus bias[r]; one launch. 1 to
// kMaxMatVecMatrices matrices, all of the type (IsFloatMatVecType) and of `cols` columns.
// x: (n, cols) with a row stride of x_stride floats. Fast where rows of weights and x are multiples
// of 16 bytes and aligned so. The result of an (i, r) pair does not depend on n.
void FloatMatVec(quant::TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                 const float* x, int64_t x_stride, int n, cudaStream_t stream);

// A norm that nobody has made yet: of (residual + x) / rms(residual + x) * weight.
struct NormToCome {
  const float* residual;  // (n, cols), rows residual_stride floats apart
  int64_t residual_stride;
  const float* x;  // (n, cols), rows x_stride floats apart, or null
  int64_t x_stride;
  const float* weight;  // (cols) or null
  float eps;
};

// The same for F32 with a norm for x: every block makes what it needs of it, which pays where there
// are few rows of weights.
void FloatMatVecOfNorm(std::span<const MatVecMatrix> matrices, int64_t cols, const NormToCome& norm,
                       int n, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_FLOAT_MATVEC_CUDA_H_
