#include "computed/model/transformer_blocks.h"

#include <cmath>

namespace gguf_offload {

void AppendAttentionTensors(const TransformerShape& shape, const AttentionTraits& traits,
                            std::vector<TensorSpec>& tensors) {
  const int64_t q = shape.heads * shape.key_dim;
  const int64_t k = shape.kv_heads * shape.key_dim;
  const int64_t v = shape.kv_heads * shape.value_dim;
  const auto part_of_qkv = [&](TensorId id, int64_t first_row, int64_t rows) {
    return TensorSpec{.id = id,
                      .dimensions = {shape.embedding, rows},
                      .merged = {{kAttentionQkv, first_row, q + k + v}}};
  };
  tensors.push_back({kAttentionNorm, {shape.embedding}});
  tensors.push_back(part_of_qkv(kAttentionQ, 0, q));
  tensors.push_back(part_of_qkv(kAttentionK, q, k));
  tensors.push_back(part_of_qkv(kAttentionV, q + k, v));
  tensors.push_back({kAttentionOutput, {shape.heads * shape.value_dim, shape.embedding}});
  if (traits.norm != QueryKeyNorm::kNone) {
    const bool rows = traits.norm == QueryKeyNorm::kRows;
    const bool optional = traits.norm == QueryKeyNorm::kHeadsIfThere;
    tensors.push_back({kAttentionQNorm, {rows ? q : shape.key_dim}, optional});
    tensors.push_back({kAttentionKNorm, {rows ? k : shape.key_dim}, optional});
  }
  if (traits.sinks) tensors.push_back({kAttentionSinks, {shape.heads}});
}

void AppendFeedForwardTensors(const TransformerShape& shape, std::vector<TensorSpec>& tensors,
                              TensorId norm) {
  const int64_t width = shape.feed_forward;
  tensors.push_back({norm, {shape.embedding}});
  tensors.push_back({.id = kFfnGate,
                     .dimensions = {shape.embedding, width},
                     .merged = {{kFfnGateUp, 0, 2 * width}}});
  tensors.push_back({.id = kFfnUp,
                     .dimensions = {shape.embedding, width},
                     .merged = {{kFfnGateUp, width, 2 * width}}});
  tensors.push_back({kFfnDown, {width, shape.embedding}});
}

std::vector<TensorSpec> EmbeddingTensors(const TransformerShape& shape) {
  return {{kTokenEmbedding, {shape.embedding, shape.vocabulary}}};
}

std::vector<TensorSpec> OutputTensors(const TransformerShape& shape) {
  return {
      {kOutputNorm, {shape.embedding}},
      {kOutput, {shape.embedding, shape.vocabulary}, /*optional=*/true},
  };
}

void GroupedQueryAttention(Backend& backend, int layer, const TransformerShape& shape,
                           const AttentionTraits& traits, const RopeFrequencies& frequencies,
                           const LayerWeights& weights, const StepActivations& step,
                           int sliding_window) {
  const Weight none;
  backend.RmsNorm(step.residual, weights[kAttentionNorm], shape.norm_epsilon, step.hidden);
  backend.Project(step.hidden, {{
                                   {weights[kAttentionQ], step.query},
                                   {weights[kAttentionK], step.key},
                                   {weights[kAttentionV], step.value},
                               }});
  const bool row_norm = traits.norm == QueryKeyNorm::kRows;
  if (row_norm) {
    backend.RmsNormBoth(step.query, weights[kAttentionQNorm], step.key, weights[kAttentionKNorm],
                        shape.norm_epsilon);
  }
  backend.RotateAndStore(layer, step.query, step.key, step.value,
                         {.head_dim = shape.key_dim,
                          .frequencies = frequencies,
                          .style = traits.rope_style,
                          .query_norm = row_norm ? none : weights[kAttentionQNorm],
                          .key_norm = row_norm ? none : weights[kAttentionKNorm],
                          .epsilon = shape.norm_epsilon});
  backend.Attention(layer, step.query,
                    {.scale = 1.0f / std::sqrt(static_cast<float>(shape.key_dim)),
                     .heads = shape.heads,
                     .sliding_window = sliding_window,
                     .sinks = traits.sinks ? &weights[kAttentionSinks] : nullptr},
                    step.attention);
  backend.Project(step.attention, {{{weights[kAttentionOutput], step.hidden}}});
}

void GatedFeedForward(Backend& backend, const TransformerShape& shape, const LayerWeights& weights,
                      const StepActivations& step, TensorId norm) {
  const Matrix gate = step.gate.Columns(0, shape.feed_forward);
  const Matrix up = step.up.Columns(0, shape.feed_forward);
  backend.AddRmsNorm(step.residual, step.hidden, weights[norm], shape.norm_epsilon, step.hidden);
  backend.ProjectGated(step.hidden, {weights[kFfnGate], gate}, {weights[kFfnUp], up});
  backend.Project(gate, {{{weights[kFfnDown], step.hidden}}});
  backend.Add(step.residual, step.hidden);
}

}  // namespace gguf_offload
