// Root mean square normalization on the GPU; see norm.h for what is computed.
//
// All pointers are device memory, strides are in elements; 16-byte aligned rows are fastest. A row
// is summed in an order that depends on the sizes only. Where `quantized.q` is not null, cols is a
// multiple of 32 and the result is written in 8 bits too, in the same pass.
#ifndef KERNELS_OPS_NORM_CUDA_H_
#define KERNELS_OPS_NORM_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"

namespace gguf_offload::cuda {

// out = norm(x); `out` may be `x`, or null where `quantized` is enough.
void RmsNorm(const float* x,  // (rows, cols), rows x_stride apart
             int64_t x_stride,
             const float* weight,  // (cols) or null
             float eps, int rows, int cols,
             float* out,  // (rows, cols), rows out_stride apart
             int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream);

// Rows that are normalized in place.
struct NormedRows {
  float* x;  // (rows, cols), rows `stride` apart
  int64_t stride;
  const float* weight;  // (cols) or null
  int cols;
};

// The norms of two matrices at once; `quantized` is the first one's.
void RmsNormBoth(const NormedRows& first, const NormedRows& second, float eps, int rows,
                 const QuantizedRows& quantized, cudaStream_t stream);

// residual += x, then out = norm(residual); `out` may be `x`, or null where `quantized` is enough.
void AddRmsNorm(float* residual,  // (rows, cols), rows residual_stride apart
                int64_t residual_stride,
                const float* x,  // (rows, cols), rows x_stride apart
                int64_t x_stride,
                const float* weight,  // (cols) or null
                float eps, int rows, int cols,
                float* out,  // (rows, cols), rows out_stride apart
                int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream);

// residual += x, where x is not null, then its norm but for the division by the root mean square,
// for products that do that (QuantizedRows::squares): nobody waits for a sum over the row. One row.
void AddDeferredNorm(float* residual,                 // (quantized.columns)
                     const float* x,                  // (quantized.columns) or null
                     const float* weight,             // (quantized.columns) or null
                     const QuantizedRows& quantized,  // gets residual * weight
                     float* squares,                  // (quantized.columns / 32)
                     cudaStream_t stream);

// The same for several rows: each gets what AddDeferredNorm gives it, to the bit, with the factor
// that products make of its squares in `factors` (QuantizedRows::factors). At most
// kMostDeferredColumns columns.
inline constexpr int64_t kMostDeferredColumns = 1 << 18;  // sums of their groups fit shared memory
void AddDeferredNorms(float* residual,  // (rows, quantized.columns), rows residual_stride apart
                      int64_t residual_stride,
                      const float* x,  // (rows, quantized.columns), rows x_stride apart, or null
                      int64_t x_stride,
                      const float* weight,  // (quantized.columns) or null
                      float eps, int rows, const QuantizedRows& quantized,
                      float* factors,  // (rows)
                      cudaStream_t stream);

// residual += x
void Add(float* residual,  // (rows, cols), rows residual_stride apart
         int64_t residual_stride,
         const float* x,  // (rows, cols), rows x_stride apart
         int64_t x_stride, int rows, int cols, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_NORM_CUDA_H_
