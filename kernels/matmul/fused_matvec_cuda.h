// Products of a single row that do what follows them in the same launch, for the formats of
// paired_matvec_cuda.h: gated units, and products that end in a norm.
#ifndef KERNELS_MATMUL_FUSED_MATVEC_CUDA_H_
#define KERNELS_MATMUL_FUSED_MATVEC_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

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

#endif  // KERNELS_MATMUL_FUSED_MATVEC_CUDA_H_
