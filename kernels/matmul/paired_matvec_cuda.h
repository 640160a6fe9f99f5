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

// Both products of a gated unit and what is made of them.
struct GatedMatVec {
  const uint8_t* gate;  // (rows, columns of x)
  const uint8_t* up;    // (rows, columns of x)
  int64_t rows;
  float* out;               // (rows): silu(gate x) * (up x)
  QuantizedRows quantized;  // the same in 8 bits; other memory than x
};

// For one row of x; false where there is no kernel for it. The results are, to the bit, those of
// QuantizedMatVec and SwiGlu.
bool GateMatVec(quant::TensorType type, const GatedMatVec& a, const QuantizedRows& x,
                cudaStream_t stream);

// A product that is added to a residual, whose norm the next products take.
struct NormedMatVec {
  const uint8_t* weight;  // (rows, columns of x)
  int64_t rows;
  const float* bias;        // (rows) or null
  float* residual;          // (rows)
  const float* norm;        // (rows), the norm's weights, or null
  QuantizedRows quantized;  // (rows); other memory than x
  float* squares;           // (rows / 32)
};

// residual += weight x + bias, for one row of x; `quantized` gets residual * norm and `squares`
// what QuantizedRows::squares says, so that nobody waits for the sum of all.
void MultiplyNormed(quant::TensorType type, const NormedMatVec& a, const QuantizedRows& x,
                    cudaStream_t stream);
bool CanMultiplyNormed(quant::TensorType type, const uint8_t* weight, int64_t rows, int64_t cols);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_PAIRED_MATVEC_CUDA_H_
