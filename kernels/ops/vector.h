// Operations on one vector: sums, scaling, softmax, the largest element.
//
// On the calling thread, in one fixed order, without allocation.
#ifndef KERNELS_OPS_VECTOR_H_
#define KERNELS_OPS_VECTOR_H_

#include <cstddef>

namespace gguf_offload {

// out = x + y; `out` may be `x` or `y`.
void Add(const float* x,  // (n)
         const float* y,  // (n)
         size_t n,
         float* out);  // (n)

// out += x * scale, fused where the machine can
void AddScaled(const float* x,  // (n)
               float scale, size_t n,
               float* out);  // (n)

// out = x * scale; `out` may be `x`.
void Scale(const float* x,  // (n)
           float scale, size_t n,
           float* out);  // (n)

// out[i] = e^x[i] / sum of e^x[j]; `out` may be `x`. At least one element must be greater than
// -infinity; elements that are -infinity become 0. A NaN makes the whole result NaN.
void Softmax(const float* x,  // (n)
             size_t n,
             float* out);  // (n)

// The index of the largest element, the first of equals. NaN never wins; 0 if there is nothing
// else.
size_t ArgMax(const float* x,  // (n)
              size_t n);

}  // namespace gguf_offload

#endif  // KERNELS_OPS_VECTOR_H_
