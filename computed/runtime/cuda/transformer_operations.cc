// What all transformers ask of CudaBackend.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "computed/runtime/cuda/cuda_backend.h"
#include "kernels/matmul/quantized_matvec_cuda.h"
#include "kernels/ops/activation_cuda.h"
#include "kernels/ops/embed_cuda.h"
#include "kernels/ops/gather_cuda.h"
#include "kernels/ops/norm_cuda.h"

namespace gguf_offload {
namespace {

cuda::MatMulOutput OutputOf(const Projection& projection) {
  const Weight& weight = projection.weight;
  return {.type = weight.type,
          .weight = weight.data,
          .rows = weight.rows,
          .cols = weight.columns,
          .bias = weight.bias,
          .y = projection.output.data,
          .y_stride = projection.output.stride,
          .scale = weight.scale};
}

}  // namespace

cuda::QuantizedRows CudaBackend::QuantizedFormOf(const Matrix& out) {
  quantized_ = nullptr;
  if (out.columns % 32 != 0) return {};
  const cuda::QuantizedRows rows = matmul_->PrepareQuantized(Padded(out.rows), out.columns);
  if (rows.q != nullptr) quantized_ = out.data;
  return rows;
}

void CudaBackend::Embed(const Weight& table, Matrix out) {
  quantized_ = nullptr;
  cuda::EmbedRows(table.type, table.data, inputs_->tokens(), Padded(out.rows), table.columns,
                  out.data, out.stride, stream_);
}

void CudaBackend::RmsNorm(Matrix x, const Weight& weight, float epsilon, Matrix out) {
  if (pending_add_.residual.data == x.data && x.data != nullptr && out.data != x.data) {
    const Matrix added = std::exchange(pending_add_, {}).x;
    AddRmsNorm(x, added, weight, epsilon, out);
    return;
  }
  RunPending();
  RunDeferredNorm();
  // In place it is done at once: what it is made of must stay until somebody takes it.
  if (CanDeferNorm(out) && out.data != x.data) {
    deferred_norm_ = {x, {}, weight.floats(), epsilon, out, /*in_8_bits=*/false};
    return;
  }
  const cuda::QuantizedRows quantized = QuantizedFormOf(out);
  cuda::RmsNorm(x.data, x.stride, weight.floats(), epsilon, Padded(x.rows), x.columns, out.data,
                out.stride, quantized, stream_);
}

void CudaBackend::RmsNormBoth(Matrix first, const Weight& first_weight, Matrix second,
                              const Weight& second_weight, float epsilon) {
  RunPending();
  const auto rows_of = [](const Matrix& x, const Weight& weight) {
    return cuda::NormedRows{x.data, x.stride, weight.floats(), static_cast<int>(x.columns)};
  };
  const cuda::QuantizedRows quantized = QuantizedFormOf(first);
  cuda::RmsNormBoth(rows_of(first, first_weight), rows_of(second, second_weight), epsilon,
                    Padded(first.rows), quantized, stream_);
}

void CudaBackend::AddRmsNorm(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                             Matrix out) {
  if (NormProduct(residual, x, weight, epsilon, out)) return;
  RunPending();
  RunDeferredNorm();
  if (CanDeferNorm(out)) {
    deferred_norm_ = {residual, x, weight.floats(), epsilon, out, /*in_8_bits=*/false};
    return;
  }
  const cuda::QuantizedRows quantized = QuantizedFormOf(out);
  cuda::AddRmsNorm(residual.data, residual.stride, x.data, x.stride, weight.floats(), epsilon,
                   Padded(x.rows), x.columns, out.data, out.stride, quantized, stream_);
}

bool CudaBackend::NormProduct(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                              Matrix out) {
  if (!pending_product_.has_value() || pending_product_->product.y != x.data ||
      out.data != x.data) {
    return false;
  }
  RunDeferredNorm();
  const PendingProduct pending = *std::exchange(pending_product_, std::nullopt);
  matmul_->RunNormed(pending.product, residual.data, weight.floats(), epsilon, stream_);
  quantized_ = out.data;
  deferred_norm_ = {residual, {}, weight.floats(), epsilon, out, /*in_8_bits=*/true};
  return true;
}

void CudaBackend::RunDeferredNorm() {
  if (!deferred_norm_.has_value()) return;
  const DeferredNorm norm = *std::exchange(deferred_norm_, std::nullopt);
  const Matrix &residual = norm.residual, &x = norm.x, &out = norm.out;
  cuda::QuantizedRows quantized;
  if (!norm.in_8_bits || quantized_ == out.data) quantized = QuantizedFormOf(out);
  if (x.data != nullptr) {
    cuda::AddRmsNorm(residual.data, residual.stride, x.data, x.stride, norm.weight, norm.epsilon,
                     Padded(out.rows), out.columns, out.data, out.stride, quantized, stream_);
  } else {
    cuda::RmsNorm(residual.data, residual.stride, norm.weight, norm.epsilon, Padded(out.rows),
                  out.columns, out.data, out.stride, quantized, stream_);
  }
}

void CudaBackend::PrepareInput(Matrix input, std::span<const Projection> projections) {
  if (!deferred_norm_.has_value() || deferred_norm_->out.data != input.data) return;
  DeferredNorm& norm = *deferred_norm_;
  const bool takes_8_bits =
      std::all_of(projections.begin(), projections.end(), [](const Projection& projection) {
        return cuda::IsQuantizedMatVecType(projection.weight.type);
      });
  if (!takes_8_bits || (norm.in_8_bits && quantized_ != input.data)) return RunDeferredNorm();
  if (norm.in_8_bits) return;
  matmul_->RunDeferredNorm(norm.residual.data, norm.residual.stride, norm.x.data, norm.x.stride,
                           Padded(input.rows), input.columns, norm.weight, norm.epsilon, stream_);
  quantized_ = input.data;
  norm.x = {};
  norm.in_8_bits = true;
}

void CudaBackend::Add(Matrix residual, Matrix x) {
  const bool of_product = pending_product_.has_value() && pending_product_->product.y == x.data;
  if (!of_product || pending_add_.residual.data != nullptr) RunPending();
  pending_add_ = {residual, x};
}

void CudaBackend::RunPending() {
  if (pending_product_.has_value()) {
    const auto [input, product] = *std::exchange(pending_product_, std::nullopt);
    Check(matmul_->Run(input.data, input.stride, 1, /*already_quantized=*/true, {&product, 1},
                       stream_));
  }
  const auto [residual, x] = std::exchange(pending_add_, {});
  if (residual.data != nullptr) {
    RunDeferredNorm();
    cuda::Add(residual.data, residual.stride, x.data, x.stride, Padded(x.rows), x.columns, stream_);
  }
  if (pending_rotation_.has_value()) cuda::RotateAndStoreKv(*pending_rotation_, stream_);
  pending_rotation_.reset();
  if (pending_choice_.has_value()) cuda::ChooseExperts(*pending_choice_, chosen_, stream_);
  pending_choice_.reset();
}

void CudaBackend::Project(Matrix input, std::span<const Projection> projections) {
  RunPending();
  std::vector<cuda::MatMulOutput> outputs;
  for (const Projection& projection : projections) outputs.push_back(OutputOf(projection));
  const auto overwrites = [&](const float* matrix) {
    return std::any_of(outputs.begin(), outputs.end(),
                       [&](const cuda::MatMulOutput& output) { return output.y == matrix; });
  };
  if (deferred_norm_.has_value() && deferred_norm_->out.data != input.data &&
      overwrites(deferred_norm_->out.data)) {
    if (deferred_norm_->in_8_bits) deferred_norm_.reset();  // nobody wants it any more
    RunDeferredNorm();
  }
  if (deferred_norm_.has_value() && deferred_norm_->out.data == input.data &&
      matmul_->CanRunOfNorm(Padded(input.rows), outputs)) {
    // They make it themselves; it stays put off for others.
    const auto& [residual, x, weight, epsilon, out, in_8_bits] = *deferred_norm_;
    matmul_->RunOfNorm({residual.data, residual.stride, x.data, x.stride, weight, epsilon},
                       Padded(input.rows), outputs, stream_);
    if (overwrites(quantized_)) quantized_ = nullptr;
    return;
  }
  PrepareInput(input, projections);
  if (Padded(input.rows) == 1 && quantized_ == input.data && outputs.size() == 1 &&
      outputs[0].y != input.data && matmul_->CanRunNormed(outputs[0])) {
    pending_product_ = {input, outputs[0]};
    return;
  }
  Check(matmul_->Run(input.data, input.stride, Padded(input.rows), quantized_ == input.data,
                     outputs, stream_));
  // The 8-bit form of the input stays, for others that take the same.
  if (quantized_ != input.data || overwrites(quantized_)) quantized_ = nullptr;
}

void CudaBackend::ProjectGated(Matrix input, const Projection& gate, const Projection& up) {
  RunPending();
  PrepareInput(input, {{gate, up}});
  const Matrix &out = gate.output, &factor = up.output;
  if (Padded(input.rows) == 1 && quantized_ == input.data &&
      matmul_->RunGated(OutputOf(gate), OutputOf(up), stream_)) {
    quantized_ = out.data;
    return;
  }
  Project(input, {{gate, up}});
  const cuda::QuantizedRows quantized = QuantizedFormOf(out);
  cuda::SwiGlu(out.data, out.stride, factor.data, factor.stride, Padded(out.rows), out.columns,
               out.data, out.stride, quantized, stream_);
}

const CudaBackend::Rotation& CudaBackend::RotationOf(const RopeFrequencies& frequencies) const {
  return *std::find_if(rotations_.begin(), rotations_.end(),
                       [&](const Rotation& r) { return r.frequencies == &frequencies; });
}

void CudaBackend::RotateAndStore(int layer, Matrix query, Matrix key, Matrix value,
                                 const RotarySpec& spec) {
  RunPending();
  quantized_ = nullptr;
  pending_rotation_ = {.q = query.data,
                       .q_stride = query.stride,
                       .k = key.data,
                       .k_stride = key.stride,
                       .v = value.data,
                       .v_stride = value.stride,
                       .rows = Padded(query.rows),
                       .heads = static_cast<int>(query.columns / spec.head_dim),
                       .layer = kv_layers_[layer],
                       .normalize = spec.query_norm || spec.key_norm,
                       .q_norm = spec.query_norm.floats(),
                       .k_norm = spec.key_norm.floats(),
                       .eps = spec.epsilon,
                       .style = spec.style,
                       .pairs = spec.frequencies.pairs(),
                       .angles = RotationOf(spec.frequencies).angles,
                       .positions = inputs_->positions(),
                       .row_pages = inputs_->row_pages(),
                       .pages = inputs_->pages()};
}

void CudaBackend::Attention(int layer, Matrix query, const AttentionSpec& spec, Matrix out) {
  // Rows of the same sequence see each other's keys, which must be there before.
  std::optional<cuda::RotateAndStore> rotation;
  if (shape_.tiles == 0) rotation = std::exchange(pending_rotation_, std::nullopt);
  RunPending();
  const cuda::KvLayer& cache = kv_layers_[layer];
  const bool can_quantize = cache.value_dim % 32 == 0 && !config_.kv.values_in_keys;
  const cuda::AttentionRows rows{
      .q = query.data,
      .q_stride = query.stride,
      .out = out.data,
      .out_stride = out.stride,
      .quantized = can_quantize ? QuantizedFormOf(out) : cuda::QuantizedRows{}};
  if (!can_quantize) quantized_ = nullptr;
  const cuda::AttentionSpec attention{
      .heads = spec.heads,
      .scale = spec.scale,
      .window = spec.sliding_window,
      .sinks = spec.sinks == nullptr || !*spec.sinks ? nullptr : spec.sinks->floats()};
  if (config_.kv.values_in_keys) return LatentAttention(rows, cache, attention);
  if (shape_.decode_rows > 0) {
    cuda::DecodeAttention(rows, inputs_->decode_rows(), shape_.decode_rows, inputs_->pages(), cache,
                          attention,
                          cuda::ChooseDecodeSplits(shape_.decode_rows, spec.heads, cache.kv_heads,
                                                   device_.multiprocessors()),
                          decode_workspace_, rotation.has_value() ? &*rotation : nullptr, stream_);
  }
  if (shape_.tiles > 0) {
    cuda::PrefillAttention(rows, inputs_->tiles(), shape_.tiles, inputs_->pages(), cache, attention,
                           stream_);
  }
}

void CudaBackend::GatherLogitRows(Matrix x, Matrix out) {
  RunPending();
  RunDeferredNorm();
  quantized_ = nullptr;
  cuda::GatherRows(x.data, x.stride, inputs_->logit_rows(), Padded(out.rows), out.columns, out.data,
                   out.stride, stream_);
}

void CudaBackend::ArgMax(Matrix logits) {
  RunPending();
  RunDeferredNorm();
  cuda::ArgMax(logits.data, logits.stride, Padded(logits.rows), logits.columns, largest_on_device_,
               argmax_cells_, stream_);
}

}  // namespace gguf_offload
