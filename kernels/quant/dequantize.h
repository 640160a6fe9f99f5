// Blocks of any GGUF type to float32.
#ifndef KERNELS_QUANT_DEQUANTIZE_H_
#define KERNELS_QUANT_DEQUANTIZE_H_

#include <cstddef>

#include "kernels/quant/format.h"

namespace gguf_offload::quant {

// Writes the `elements` values (a multiple of the block) that `blocks` hold to `out` (elements).
// `type` must be dequantizable. Neither pointer needs alignment beyond a byte and a float; nothing
// beyond the blocks is read. Any bits are valid input: NaN and infinities come out as such.
void Dequantize(TensorType type, const void* blocks, size_t elements, float* out);

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_DEQUANTIZE_H_
