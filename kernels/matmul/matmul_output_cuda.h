// One weight matrix of a product on the GPU and where the result goes.
#ifndef KERNELS_MATMUL_MATMUL_OUTPUT_CUDA_H_
#define KERNELS_MATMUL_MATMUL_OUTPUT_CUDA_H_

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// All pointers are device memory. The 16 bytes before and behind the weight must be readable: it is
// read in whole pieces of 16 bytes.
struct MatMulOutput {
  quant::TensorType type;  // a block format, F32, F16 or BF16
  const uint8_t* weight;   // (rows, cols), row-major blocks; 8-byte aligned
  int64_t rows;
  int64_t cols;       // a multiple of the block
  const float* bias;  // (rows), or null
  float* y;           // (n, rows) with a row stride of y_stride
  int64_t y_stride;   // in floats, at least `rows`
  // A factor of the products, ahead of the bias; null for 1.
  const float* scale = nullptr;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_MATMUL_OUTPUT_CUDA_H_
