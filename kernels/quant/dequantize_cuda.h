// Blocks of any GGUF type to binary16 or float32, in GPU memory.
#ifndef KERNELS_QUANT_DEQUANTIZE_CUDA_H_
#define KERNELS_QUANT_DEQUANTIZE_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Writes the `elements` values (a multiple of the block) that `blocks` hold to `out`. `type` must
// be dequantizable. `blocks` is device memory or mapped host memory, aligned to 8 bytes; the
// aligned 16 bytes around its first and its last byte must be readable. `out` is aligned to 16
// bytes, and nothing beyond `elements` is written. Any bits are valid input. Launches one kernel
// or, without elements, none; errors are cudaGetLastError's.

// Values beyond +-65504, infinite ones too, become that; NaN stays NaN.
void DequantizeToHalf(quant::TensorType type, const uint8_t* blocks, int64_t elements,
                      __half* out,  // (elements)
                      cudaStream_t stream);

// The same bits as quant::Dequantize, but for NaNs' payloads.
void DequantizeToFloat(quant::TensorType type, const uint8_t* blocks, int64_t elements,
                       float* out,  // (elements)
                       cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DEQUANTIZE_CUDA_H_
