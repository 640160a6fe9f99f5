#include "kernels/ops/embed.h"

#include "kernels/ops/row_chunks.h"
#include "kernels/quant/dequantize.h"

namespace gguf_offload {

void EmbedRows(quant::TensorType type, const void* table, const int32_t* ids, size_t n, size_t dim,
               float* out, ThreadPool& pool) {
  const size_t row_bytes = quant::RowBytes(quant::FormatOf(type), dim);
  const auto* rows = static_cast<const uint8_t*>(table);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      quant::Dequantize(type, rows + static_cast<size_t>(ids[i]) * row_bytes, dim, out + i * dim);
    }
  });
}

}  // namespace gguf_offload
