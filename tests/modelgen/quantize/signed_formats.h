// Encoders of the formats whose groups have a signed scale and no offset, one block at a time.
// What the blocks look like is told in kernels/quant/unpack_simple-inl.h, unpack_k-inl.h and
// unpack_iq-inl.h.
#ifndef TESTS_MODELGEN_QUANTIZE_SIGNED_FORMATS_H_
#define TESTS_MODELGEN_QUANTIZE_SIGNED_FORMATS_H_

#include <cstdint>

namespace gguf_offload {

// `x`: the block's values, 32 or 256 (Q6_K, Q3_K, IQ4_XS); `block`: its bytes.
void EncodeQ8_0(const float* x, uint8_t* block);
void EncodeQ4_0(const float* x, uint8_t* block);
void EncodeIq4Nl(const float* x, uint8_t* block);
void EncodeMxfp4(const float* x, uint8_t* block);
void EncodeQ6_K(const float* x, uint8_t* block);
void EncodeQ3_K(const float* x, uint8_t* block);
void EncodeIq4Xs(const float* x, uint8_t* block);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_SIGNED_FORMATS_H_
