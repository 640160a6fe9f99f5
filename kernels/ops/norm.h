// Root mean square normalization (Zhang and Sennrich 2019, arXiv:1910.07467).
//
// out[i] = x[i] / sqrt(mean of x^2 + eps) * weight[i]. Each row is summed in one fixed order: its
// result is bit-identical whatever the other rows and the number of threads are. Strides are in
// elements. `weight` may be null (all ones). Nothing is allocated.
#ifndef KERNELS_OPS_NORM_H_
#define KERNELS_OPS_NORM_H_

#include <cstddef>

#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// out = norm(x), row by row; `out` may be `x`.
void RmsNorm(const float* x,  // (n, dim), rows x_stride apart
             size_t x_stride,
             const float* weight,  // (dim) or null
             float eps, size_t n, size_t dim,
             float* out,  // (n, dim), rows out_stride apart
             size_t out_stride, ThreadPool& pool);

// Normalizes each head of each row in place, all with the same weight (Qwen 3's query and key
// norm).
void RmsNormHeads(float* x,  // (n, heads, head_dim), rows row_stride and heads head_stride apart
                  size_t row_stride, size_t head_stride,
                  const float* weight,  // (head_dim) or null
                  float eps, size_t n, size_t heads, size_t head_dim, ThreadPool& pool);

// residual += x, then out = norm(residual). `out` may be `x`.
void AddRmsNorm(float* residual,      // (n, dim), contiguous
                const float* x,       // (n, dim), contiguous
                const float* weight,  // (dim) or null
                float eps, size_t n, size_t dim,
                float* out,  // (n, dim), contiguous
                ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_OPS_NORM_H_
