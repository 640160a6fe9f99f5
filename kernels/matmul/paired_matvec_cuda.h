// Products of quantized matrices with 8-bit activations (quantized_matvec_cuda.h) for the formats
// of decode_pair.cuh: a lane takes two groups of 32 that share bytes, and keeps weights that are on
// their way in registers rather than in shared memory, which leaves the first-level cache large.
// With several rows for the same activations that takes less than half of the other kernel's
// instructions, which is what products of a single column otherwise wait for.
#ifndef KERNELS_MATMUL_PAIRED_MATVEC_CUDA_H_
#define KERNELS_MATMUL_PAIRED_MATVEC_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/matmul/matvec_matrix.h"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Whether the matrices can be multiplied here: by their type, and with rows of whole pieces of 16
// bytes that are aligned to as many.
bool IsPairedMatVec(quant::TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols);

// QuantizedMatVec of such matrices.
void PairedMatVec(quant::TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                  const QuantizedRows& x, int n, cudaStream_t stream);

// QuantizedMatVec of matrices of two types in one launch, or false where there is no kernel for
// that: a mix of quantizations often has one of several products of the same input in another type.
bool MixedMatVec(std::span<const MatVecMatrix> first, quant::TensorType first_type,
                 std::span<const MatVecMatrix> second, quant::TensorType second_type, int64_t cols,
                 const QuantizedRows& x, int n, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_PAIRED_MATVEC_CUDA_H_
