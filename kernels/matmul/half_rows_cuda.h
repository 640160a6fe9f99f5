// The conversions around a product in half precision (binary16) on the GPU.
#ifndef KERNELS_MATMUL_HALF_ROWS_CUDA_H_
#define KERNELS_MATMUL_HALF_ROWS_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Columns of a matrix in half precision that has `cols` columns: rows begin at multiples of 16
// bytes, which tensor cores need. The columns added are zero.
constexpr int64_t PadHalfColumns(int64_t cols) { return (cols + 7) / 8 * 8; }

// Activations x: (n, cols) with a row stride of x_stride floats -> out, row_scale, so that
// x = out * row_scale. The scale is a power of two: 1, unless the row's largest magnitude would
// overflow or lose bits in half precision. NaN and infinities stay what they are.
void RowsToHalf(const float* x, int64_t x_stride, int n, int64_t cols,
                __half* out,       // (n, PadHalfColumns(cols)), 16-byte aligned
                float* row_scale,  // (n)
                cudaStream_t stream);

// Weights of type F32, F16 or BF16 -> out, padded. Finite values beyond +-65504 become that.
void PlainToHalf(quant::TensorType type,
                 const uint8_t* weight,  // (rows, cols)
                 int64_t rows, int64_t cols,
                 __half* out,  // (rows, PadHalfColumns(cols)), 16-byte aligned
                 cudaStream_t stream);

// y = y * row_scale * scale + bias, where that changes anything.
void ScaleRowsAddBias(const float* row_scale,  // (n), or null for 1
                      const float* scale,      // (1), or null for 1
                      const float* bias,       // (rows), or null for 0
                      float* y,                // (n, rows) with a row stride of y_stride floats
                      int64_t y_stride, int n, int64_t rows, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_HALF_ROWS_CUDA_H_
