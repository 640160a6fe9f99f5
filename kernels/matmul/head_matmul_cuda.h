// Products with one small matrix for each attention head, on the GPU: see head_matmul.h, also for
// why activations are float32.
#ifndef KERNELS_MATMUL_HEAD_MATMUL_CUDA_H_
#define KERNELS_MATMUL_HEAD_MATMUL_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// A matrix a head. Pointers are device memory; the 16 bytes before and behind it must be readable.
struct HeadMatrices {
  quant::TensorType type = quant::TensorType::kF32;  // a block format, F32, F16 or BF16
  const uint8_t* data = nullptr;                     // (heads, rows, cols), 8-byte aligned
  int heads = 0;
  int64_t rows = 0;
  int64_t cols = 0;        // a multiple of the block
  int64_t head_bytes = 0;  // from one head's first row to the next one's
};

// A vector for each row and head; strides are in floats.
struct HeadVectors {
  float* data = nullptr;  // (n, heads, elements)
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

// y[i][h][r] = sum over c of weight[h][r][c] * x[i][h][c]; or, if `transposed`,
// y[i][h][c] = sum over r of weight[h][r][c] * x[i][h][r]. One launch. A row's result does not
// depend on the others, nor up to 64 rows on how many there are. `quantized`, where it has memory,
// gets (n, heads * rows), y in 8 bits, and may where CanQuantizeHeads says so.
void MultiplyHeads(const HeadMatrices& weight, bool transposed, const HeadVectors& x, int n,
                   const HeadVectors& y, const QuantizedRows& quantized, cudaStream_t stream);
bool CanQuantizeHeads(const HeadMatrices& weight, int n);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_HEAD_MATMUL_CUDA_H_
