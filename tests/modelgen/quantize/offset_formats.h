// Encoders of the formats whose groups have a scale and a minimum, one block of 256 at a time:
// value = d * scale * code - dmin * minimum, all but d and dmin whole numbers from zero.
// What the blocks look like is told in kernels/quant/unpack_k-inl.h.
#ifndef TESTS_MODELGEN_QUANTIZE_OFFSET_FORMATS_H_
#define TESTS_MODELGEN_QUANTIZE_OFFSET_FORMATS_H_

#include <cstdint>

namespace gguf_offload {

// `x`: (256); `block`: its bytes.
void EncodeQ5_K(const float* x, uint8_t* block);
void EncodeQ4_K(const float* x, uint8_t* block);
void EncodeQ2_K(const float* x, uint8_t* block);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_OFFSET_FORMATS_H_
