// What latent attention asks of CudaBackend.
#include <algorithm>
#include <utility>

#include "computed/runtime/cuda/cuda_backend.h"
#include "kernels/attention/latent_attention_cuda.h"
#include "kernels/matmul/head_matmul_cuda.h"
#include "kernels/ops/latent_rope_cuda.h"

namespace gguf_offload {

void CudaBackend::ReadSoon(const Weight& weight) {
  // As much as finds room in half of the second-level cache.
  ahead_ = {weight.data, weight.bytes(), device_.cache_bytes() / 2};
}

void CudaBackend::LatentAttention(const cuda::AttentionRows& rows, const cuda::KvLayer& cache,
                                  const cuda::AttentionSpec& spec) {
  if (shape_.decode_rows > 0) {
    cuda::DecodeLatentAttention(
        rows, inputs_->decode_rows(), shape_.decode_rows, inputs_->pages(), cache, spec,
        cuda::ChooseLatentSplits(shape_.decode_rows, spec.heads, device_.multiprocessors()),
        decode_workspace_.partials, std::exchange(ahead_, {}), stream_);
  }
  if (shape_.tiles > 0) {
    cuda::PrefillLatentAttention(rows, inputs_->tiles(), shape_.tiles, inputs_->pages(), cache,
                                 spec, stream_);
  }
}

cuda::HeadMatrices CudaBackend::HeadMatricesOf(const HeadWeights& weight, int heads) const {
  const Weight& matrix = weight.weight;
  const int64_t row_bytes = matrix.row_bytes();
  return {.type = matrix.type,
          .data = matrix.data + weight.first_row * row_bytes,
          .heads = heads,
          .rows = weight.rows,
          .cols = matrix.columns,
          .head_bytes = weight.head_rows * row_bytes};
}

void CudaBackend::ProjectHeads(HeadSlice input, const HeadWeights& weight, HeadSlice out) {
  RunPending();
  quantized_ = nullptr;
  const cuda::HeadMatrices matrices = HeadMatricesOf(weight, input.heads);
  const int rows = Padded(input.rows);
  // Heads without anything between them are a matrix, which a product may follow.
  cuda::QuantizedRows quantized;
  if (out.head_stride == out.columns && cuda::CanQuantizeHeads(matrices, rows)) {
    quantized = QuantizedFormOf({out.data, out.rows, out.heads * out.columns, out.stride});
  }
  cuda::MultiplyHeads(matrices, /*transposed=*/false, {input.data, input.stride, input.head_stride},
                      rows, {out.data, out.stride, out.head_stride}, quantized, stream_);
}

void CudaBackend::ProjectHeadsTransposed(HeadSlice input, const HeadWeights& weight,
                                         HeadSlice out) {
  RunPending();
  quantized_ = nullptr;
  cuda::MultiplyHeads(HeadMatricesOf(weight, input.heads), /*transposed=*/true,
                      {input.data, input.stride, input.head_stride}, Padded(input.rows),
                      {out.data, out.stride, out.head_stride}, {}, stream_);
}

void CudaBackend::RotateAndStoreLatent(int layer, HeadSlice query, HeadSlice rotated, Matrix key,
                                       const LatentRotarySpec& spec) {
  RunPending();
  quantized_ = nullptr;
  cuda::RotateAndStoreLatentKv({.q = query.data,
                                .q_stride = query.stride,
                                .q_head_stride = query.head_stride,
                                .rotated = rotated.data,
                                .rotated_stride = rotated.stride,
                                .rotated_head_stride = rotated.head_stride,
                                .key = key.data,
                                .key_stride = key.stride,
                                .rows = Padded(query.rows),
                                .heads = query.heads,
                                .rope_dim = static_cast<int>(query.columns),
                                .layer = kv_layers_[layer],
                                .style = spec.style,
                                .pairs = spec.frequencies.pairs(),
                                .angles = RotationOf(spec.frequencies).angles,
                                .positions = inputs_->positions(),
                                .row_pages = inputs_->row_pages(),
                                .pages = inputs_->pages()},
                               stream_);
}

}  // namespace gguf_offload
