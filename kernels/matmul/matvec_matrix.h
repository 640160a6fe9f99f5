// A weight matrix and where its products go, as the matrix-vector kernels on the GPU take them.
#ifndef KERNELS_MATMUL_MATVEC_MATRIX_H_
#define KERNELS_MATMUL_MATVEC_MATRIX_H_

#include <cstdint>

namespace gguf_offload::cuda {

// Matrices that one launch can multiply with the same activations.
inline constexpr int kMaxMatVecMatrices = 4;

// All pointers are device memory. The 16 bytes before and behind the weight must be readable: it is
// read in whole pieces of 16 bytes.
struct MatVecMatrix {
  const uint8_t* weight;  // (rows, cols), blocks or numbers; 8-byte aligned
  int64_t rows;
  const float* bias;  // (rows), or null
  float* y;           // (n, rows) with a row stride of y_stride
  int64_t y_stride;   // in floats, at least `rows`
  // A factor of the products, ahead of the bias; null for 1.
  const float* scale = nullptr;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_MATVEC_MATRIX_H_
