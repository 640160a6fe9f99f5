// Looks up token embeddings on the GPU in a table that stays quantized.
#ifndef KERNELS_OPS_EMBED_CUDA_H_
#define KERNELS_OPS_EMBED_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Dequantizes row tokens[i] of the table into row i of `out`. The caller has checked that every
// token is in [0, vocab), that `type` is dequantizable and that `columns` is a multiple of its
// block. The table is aligned to 8 bytes, and the aligned 16 bytes around its first and its last
// byte must be readable; `out` is aligned to 16 bytes and `out_stride`, in elements, is a multiple
// of 16. What lies between the rows of `out` is left as it is.
void EmbedRows(quant::TensorType type,
               const uint8_t* table,   // (vocab, columns), blocks; device or mapped host memory
               const int32_t* tokens,  // (n), device memory
               int n, int64_t columns,
               float* out,  // (n, columns), rows out_stride apart
               int64_t out_stride, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_EMBED_CUDA_H_
