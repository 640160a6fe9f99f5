// Activations to 8 bits on the GPU, for producers that do not write them so themselves.
#ifndef KERNELS_MATMUL_QUANTIZE_ROWS_CUDA_H_
#define KERNELS_MATMUL_QUANTIZE_ROWS_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"

namespace gguf_offload::cuda {

// x: (n, out.columns) with a row stride of x_stride floats -> out.
void QuantizeRows(const float* x, int64_t x_stride, int n, const QuantizedRows& out,
                  cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_QUANTIZE_ROWS_CUDA_H_
