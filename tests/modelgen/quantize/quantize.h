// Float32 values to blocks of the GGUF types that people keep models in.
//
// Encoders are free to choose scales and codes; only the decoding is defined. These choose what
// makes the squared error of a block small: they try several scales for each group, fit each to its
// codes by least squares, round the scales to what the format can hold, choose the codes anew and
// keep the best of what comes out of the decoder's own arithmetic.
#ifndef TESTS_MODELGEN_QUANTIZE_QUANTIZE_H_
#define TESTS_MODELGEN_QUANTIZE_QUANTIZE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload {

// True of F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, Q4_0, IQ4_NL, IQ4_XS and MXFP4.
bool CanQuantize(quant::TensorType type);

// The largest magnitude that `type` takes: of quantized types 65504, the largest half-precision
// number, as their scales are of that kind (MXFP4: 2^126).
float LargestMagnitude(quant::TensorType type);

// The index of the first of `values` (count) that `type` cannot hold because it is not a number,
// infinite or too large; `count` if there is none.
size_t FindUnquantizable(quant::TensorType type, const float* values, size_t count);

// Writes `values` (elements, a multiple of the block) as `blocks`. CanQuantize(type) must be true,
// and all values must be such that FindUnquantizable() finds none. A pure function of the values.
void Quantize(quant::TensorType type, const float* values, size_t elements, uint8_t* blocks);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_QUANTIZE_H_
