// Looks up token embeddings in a table that stays quantized.
#ifndef KERNELS_OPS_EMBED_H_
#define KERNELS_OPS_EMBED_H_

#include <cstddef>
#include <cstdint>

#include "kernels/quant/format.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// Dequantizes row ids[i] of the table into row i of `out`. The caller has checked that every id is
// in [0, vocab), that `type` is dequantizable and that `dim` is a multiple of its block.
void EmbedRows(quant::TensorType type,
               const void* table,   // (vocab, dim), blocks of `type`
               const int32_t* ids,  // (n)
               size_t n, size_t dim,
               float* out,  // (n, dim), contiguous
               ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_OPS_EMBED_H_
