#include "computed/runtime/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "computed/sampler/argmax.h"
#include "kernels/ops/activation.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/vector.h"

namespace gguf_offload {

namespace {

HeadMatrices MatricesOf(const HeadWeights& part, int heads) {
  const Weight& weight = part.weight;
  const auto row_bytes = static_cast<size_t>(weight.row_bytes());
  return {.type = weight.type,
          .data = weight.data + part.first_row * row_bytes,
          .heads = heads,
          .rows = part.rows,
          .cols = weight.columns,
          .head_bytes = part.head_rows * row_bytes};
}

}  // namespace

CpuBackend::CpuBackend(int threads, ActivationType activations)
    : activations_(activations),
      pool_(threads),
      matmul_(pool_),
      head_matmul_(pool_),
      router_(pool_),
      experts_(pool_, matmul_) {}

absl::StatusOr<Matrix> CpuBackend::AllocateMatrix(int rows, int64_t columns,
                                                  absl::string_view purpose) {
  // Rows begin at cache lines.
  const int64_t stride = (columns + 15) / 16 * 16;
  absl::StatusOr<HostBuffer> buffer = HostBuffer::Allocate(rows * stride * sizeof(float));
  if (!buffer.ok()) {
    return absl::ResourceExhaustedError(absl::StrCat(purpose, ": ", buffer.status().message()));
  }
  activation_bytes_ += buffer->size();
  activation_memory_.push_back(*std::move(buffer));
  return Matrix{reinterpret_cast<float*>(activation_memory_.back().data()), rows, columns, stride};
}

absl::Status CpuBackend::AllocateKvCache(const KvShape& shape, int pages) {
  // float32 where results are compared with float32 references, half the memory otherwise.
  KvLayer layer{
      .type = activations_ == ActivationType::kFloat32 ? KvType::kFloat32 : KvType::kFloat16,
      .n_kv_heads = shape.kv_heads,
      .k_dim = static_cast<int>(shape.key_dim),
      .v_dim = static_cast<int>(shape.value_dim),
      .values_in_keys = shape.values_in_keys};
  const size_t key_bytes = (layer.PageKeyBytes() * pages + 63) / 64 * 64;
  const size_t value_bytes = (layer.PageValueBytes() * pages + 63) / 64 * 64;
  absl::StatusOr<HostBuffer> buffer =
      HostBuffer::Allocate((key_bytes + value_bytes) * shape.layers);
  if (!buffer.ok()) return buffer.status();
  kv_memory_ = *std::move(buffer);
  uint8_t* next = kv_memory_.data();
  for (int i = 0; i < shape.layers; ++i) {
    layer.keys = next;
    layer.values = shape.values_in_keys ? nullptr : next + key_bytes;
    next += key_bytes + value_bytes;
    kv_layers_.push_back(layer);
  }
  return absl::OkStatus();
}

void CpuBackend::BeginStep(const StepBatch& batch) {
  batch_ = &batch;
  status_ = absl::OkStatus();
  angles_of_ = nullptr;
  sequences_.clear();
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    sequences_.push_back({static_cast<size_t>(sequence.first_row), sequence.rows,
                          sequence.first_position, sequence.pages.data()});
  }
}

void CpuBackend::Embed(const Weight& table, Matrix out) {
  if (out.stride == out.columns) {
    EmbedRows(table.type, table.data, batch_->tokens.data(), out.rows, table.columns, out.data,
              pool_);
    return;
  }
  for (int row = 0; row < out.rows; ++row) {
    EmbedRows(table.type, table.data, &batch_->tokens[row], 1, table.columns,
              out.data + row * out.stride, pool_);
  }
}

void CpuBackend::RmsNorm(Matrix x, const Weight& weight, float epsilon, Matrix out) {
  gguf_offload::RmsNorm(x.data, x.stride, weight.floats(), epsilon, x.rows, x.columns, out.data,
                        out.stride, pool_);
}

void CpuBackend::RmsNormBoth(Matrix first, const Weight& first_weight, Matrix second,
                             const Weight& second_weight, float epsilon) {
  RmsNorm(first, first_weight, epsilon, first);
  RmsNorm(second, second_weight, epsilon, second);
}

void CpuBackend::AddRmsNorm(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                            Matrix out) {
  Add(residual, x);
  RmsNorm(residual, weight, epsilon, out);
}

void CpuBackend::Add(Matrix residual, Matrix x) {
  for (int row = 0; row < residual.rows; ++row) {
    float* sum = residual.data + row * residual.stride;
    gguf_offload::Add(sum, x.data + row * x.stride, residual.columns, sum);
  }
}

void CpuBackend::Project(Matrix input, std::span<const Projection> projections) {
  outputs_.clear();
  for (const Projection& projection : projections) {
    const Weight& weight = projection.weight;
    outputs_.push_back({.weight = {weight.type, weight.data, weight.rows, weight.columns},
                        .bias = weight.bias,
                        .y = projection.output.data,
                        .y_stride = projection.output.stride,
                        .scale = weight.scale});
  }
  matmul_.Run(activations_, input.data, input.stride, input.rows, outputs_);
}

void CpuBackend::ComputeAngles(const RopeFrequencies& frequencies) {
  if (angles_of_ == &frequencies) return;
  angles_.Compute(frequencies, batch_->positions.data(), batch_->positions.size(), pool_);
  angles_of_ = &frequencies;
}

void CpuBackend::Rotate(Matrix x, const Weight& norm, const RotarySpec& spec) {
  const int64_t heads = x.columns / spec.head_dim;
  if (norm) {
    RmsNormHeads(x.data, x.stride, spec.head_dim, norm.floats(), spec.epsilon, x.rows, heads,
                 spec.head_dim, pool_);
  }
  Rope(x.data, x.stride, spec.head_dim, heads, angles_, spec.style, pool_);
}

void CpuBackend::RotateAndStore(int layer, Matrix query, Matrix key, Matrix value,
                                const RotarySpec& spec) {
  ComputeAngles(spec.frequencies);
  Rotate(query, spec.query_norm, spec);
  Rotate(key, spec.key_norm, spec);
  WriteKv(key.data, key.stride, value.data, value.stride, sequences_, kv_layers_[layer], pool_);
}

void CpuBackend::ProjectHeads(HeadSlice input, const HeadWeights& weight, HeadSlice out) {
  head_matmul_.Run(MatricesOf(weight, input.heads), {input.data, input.stride, input.head_stride},
                   input.rows, {out.data, out.stride, out.head_stride});
}

void CpuBackend::ProjectHeadsTransposed(HeadSlice input, const HeadWeights& weight, HeadSlice out) {
  head_matmul_.RunTransposed(MatricesOf(weight, input.heads),
                             {input.data, input.stride, input.head_stride}, input.rows,
                             {out.data, out.stride, out.head_stride});
}

void CpuBackend::RotateAndStoreLatent(int layer, HeadSlice query, HeadSlice rotated, Matrix key,
                                      const LatentRotarySpec& spec) {
  ComputeAngles(spec.frequencies);
  for (int row = 0; row < query.rows; ++row) {
    for (int head = 0; head < query.heads; ++head) {
      std::memcpy(rotated.data + row * rotated.stride + head * rotated.head_stride,
                  query.data + row * query.stride + head * query.head_stride,
                  query.columns * sizeof(float));
    }
  }
  Rope(rotated.data, rotated.stride, rotated.head_stride, rotated.heads, angles_, spec.style,
       pool_);
  const int64_t plain = key.columns - query.columns;
  Rope(key.data + plain, key.stride, key.columns, 1, angles_, spec.style, pool_);
  WriteKv(key.data, key.stride, nullptr, 0, sequences_, kv_layers_[layer], pool_);
}

void CpuBackend::Attention(int layer, Matrix query, const AttentionSpec& spec, Matrix out) {
  gguf_offload::Attention(query.data, query.stride, sequences_, kv_layers_[layer],
                          {.n_heads = spec.heads,
                           .scale = spec.scale,
                           .window = spec.sliding_window,
                           .sinks = spec.sinks == nullptr ? nullptr : spec.sinks->floats()},
                          out.data, out.stride, attention_workspace_, pool_);
}

void CpuBackend::ProjectGated(Matrix input, const Projection& gate, const Projection& up) {
  Project(input, {{gate, up}});
  const Matrix &out = gate.output, &factor = up.output;
  SwiGlu(out.data, out.stride, factor.data, factor.stride, out.rows, out.columns, out.data,
         out.stride, pool_);
}

void CpuBackend::GatherLogitRows(Matrix x, Matrix out) {
  for (int i = 0; i < out.rows; ++i) {
    std::memcpy(out.data + i * out.stride, x.data + batch_->logit_rows[i] * x.stride,
                x.columns * sizeof(float));
  }
}

int32_t CpuBackend::LargestOf(int row) {
  return CanChooseBy(HostRow(row)) ? gguf_offload::ArgMax(HostRow(row)) : -1;
}

}  // namespace gguf_offload
