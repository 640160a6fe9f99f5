// Sums of a matrix's rows, each multiplied by a factor: products with its transpose.
#ifndef KERNELS_MATMUL_WEIGHTED_ROWS_H_
#define KERNELS_MATMUL_WEIGHTED_ROWS_H_

#include <cstddef>
#include <cstdint>

namespace gguf_offload {

// Floats from one row of AddWeightedRows to the next.
inline constexpr size_t WeightedRowsPadded(size_t columns) { return (columns + 63) / 64 * 64; }

// y[i][c] = sum over r, in order, of factors[i][r] * rows[r][c]: one fused multiply-add a term
// where the machine has it. What is behind `columns` in a row is read but has no influence.
void AddWeightedRows(const float* rows,  // (count, WeightedRowsPadded(columns)), 64-byte aligned
                     size_t count, size_t columns,
                     const float* factors,  // (n, count), rows factor_stride apart
                     int64_t factor_stride, int n,
                     float* y,  // (n, columns), rows y_stride apart
                     int64_t y_stride);

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_WEIGHTED_ROWS_H_
