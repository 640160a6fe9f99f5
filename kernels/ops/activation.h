// Activations of feed-forward layers (SwiGLU, Shazeer 2020, arXiv:2002.05202).
//
// Element by element; relative error about 1e-6. `out` may be `gate` or `up`. Strides are in
// elements, so gate and up may be the halves of one fused matrix product. Nothing is allocated.
#ifndef KERNELS_OPS_ACTIVATION_H_
#define KERNELS_OPS_ACTIVATION_H_

#include <cstddef>

#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// out = gate * sigmoid(gate) * up
void SwiGlu(const float* gate,  // (n, dim), rows gate_stride apart
            size_t gate_stride,
            const float* up,  // (n, dim), rows up_stride apart
            size_t up_stride, size_t n, size_t dim,
            float* out,  // (n, dim), rows out_stride apart
            size_t out_stride, ThreadPool& pool);

// The variant of gpt-oss: x = min(gate, limit), y = clamp(up, -limit, limit),
// out = x * sigmoid(alpha * x) * (y + 1); the model has alpha = 1.702 and limit = 7.
void ClampedSwiGlu(const float* gate,  // (n, dim), rows gate_stride apart
                   size_t gate_stride,
                   const float* up,  // (n, dim), rows up_stride apart
                   size_t up_stride, float alpha, float limit, size_t n, size_t dim,
                   float* out,  // (n, dim), rows out_stride apart
                   size_t out_stride, ThreadPool& pool);

// out = x * sigmoid(x)
void Silu(const float* x,  // (n, dim), rows x_stride apart
          size_t x_stride, size_t n, size_t dim,
          float* out,  // (n, dim), rows out_stride apart; may be x
          size_t out_stride, ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_OPS_ACTIVATION_H_
