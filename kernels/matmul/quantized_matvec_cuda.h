// Products of quantized weight matrices with a few columns of 8-bit activations, on the GPU.
//
// Weights stay in their GGUF blocks and are multiplied in integers, group of 32 by group of 32
// (dp4a). Bound by reading the weights; every 8 columns of activations more read them once more.
#ifndef KERNELS_MATMUL_QUANTIZED_MATVEC_CUDA_H_
#define KERNELS_MATMUL_QUANTIZED_MATVEC_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/matmul/matvec_matrix.h"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Whether weights of this type can be multiplied here: every block format, no plain numbers.
bool IsQuantizedMatVecType(quant::TensorType type);

// For each matrix: y[i][r] = sum over c of weight[r][c] * x[i][c], plus bias[r]; one launch. 1 to
// kMaxMatVecMatrices matrices, all of the type (IsQuantizedMatVecType) and of `cols` columns.
// x: (n, cols). The result of an (i, r) pair does not depend on n.
void QuantizedMatVec(quant::TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                     const QuantizedRows& x, int n, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_QUANTIZED_MATVEC_CUDA_H_
