// Activations of feed-forward layers on the GPU; see activation.h for what is computed.
//
// All pointers are device memory, strides are in elements; 16-byte aligned rows are fastest. `out`
// may be `gate` or `up`, or null where `quantized` is enough. Where `quantized.q` is not null, cols
// is a multiple of 32 and the result is written in 8 bits too.
#ifndef KERNELS_OPS_ACTIVATION_CUDA_H_
#define KERNELS_OPS_ACTIVATION_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"

namespace gguf_offload::cuda {

// out = gate * sigmoid(gate) * up
void SwiGlu(const float* gate,  // (rows, cols), rows gate_stride apart
            int64_t gate_stride,
            const float* up,  // (rows, cols), rows up_stride apart
            int64_t up_stride, int rows, int cols,
            float* out,  // (rows, cols), rows out_stride apart
            int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream);

// x = min(gate, limit), y = clamp(up, -limit, limit), out = x * sigmoid(alpha * x) * (y + 1)
void ClampedSwiGlu(const float* gate,  // (rows, cols), rows gate_stride apart
                   int64_t gate_stride,
                   const float* up,  // (rows, cols), rows up_stride apart
                   int64_t up_stride, float alpha, float limit, int rows, int cols,
                   float* out,  // (rows, cols), rows out_stride apart
                   int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream);

// out = x * sigmoid(x)
void Silu(const float* x,  // (rows, cols), rows x_stride apart
          int64_t x_stride, int rows, int cols,
          float* out,  // (rows, cols), rows out_stride apart; may be x
          int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_ACTIVATION_CUDA_H_
