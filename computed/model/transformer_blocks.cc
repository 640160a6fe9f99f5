#include "computed/model/transformer_blocks.h"

#include <cmath>

namespace gguf_offload {

void AppendAttentionTensors(const TransformerShape& shape, const AttentionTraits& traits,
                            std::vector<TensorSpec>& tensors) {
  const int64_t q = shape.heads * shape.key_dim;
  const int64_t k = shape.kv_heads * shape.key_dim;
  const int64_t v = shape.kv_heads * shape.value_dim;
  const bool bias_optional = !traits.qkv_bias;
  tensors.insert(tensors.end(),
                 {
                     {kAttentionNorm, {shape.embedding}},
                     {kAttentionQ, {shape.embedding, q}},
                     {kAttentionQBias, {q}, bias_optional},
                     {kAttentionK, {shape.embedding, k}},
                     {kAttentionKBias, {k}, bias_optional},
                     {kAttentionV, {shape.embedding, v}},
                     {kAttentionVBias, {v}, bias_optional},
                     {kAttentionOutput, {shape.heads * shape.value_dim, shape.embedding}},
                     {kAttentionOutputBias, {shape.embedding}, !traits.output_bias},
                 });
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
  tensors.insert(tensors.end(), {
                                    {norm, {shape.embedding}},
                                    {kFfnGate, {shape.embedding, shape.feed_forward}},
                                    {kFfnGateBias, {shape.feed_forward}, /*optional=*/true},
                                    {kFfnUp, {shape.embedding, shape.feed_forward}},
                                    {kFfnUpBias, {shape.feed_forward}, /*optional=*/true},
                                    {kFfnDown, {shape.feed_forward, shape.embedding}},
                                    {kFfnDownBias, {shape.embedding}, /*optional=*/true},
                                });
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
                                   {weights[kAttentionQ], weights[kAttentionQBias], step.query},
                                   {weights[kAttentionK], weights[kAttentionKBias], step.key},
                                   {weights[kAttentionV], weights[kAttentionVBias], step.value},
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
  backend.Project(step.attention,
                  {{{weights[kAttentionOutput], weights[kAttentionOutputBias], step.hidden}}});
}

void GatedFeedForward(Backend& backend, const TransformerShape& shape, const LayerWeights& weights,
                      const StepActivations& step, TensorId norm) {
  const Matrix gate = step.gate.Columns(0, shape.feed_forward);
  const Matrix up = step.up.Columns(0, shape.feed_forward);
  backend.AddRmsNorm(step.residual, step.hidden, weights[norm], shape.norm_epsilon, step.hidden);
  backend.ProjectGated(step.hidden, {weights[kFfnGate], weights[kFfnGateBias], gate},
                       {weights[kFfnUp], weights[kFfnUpBias], up});
  backend.Project(gate, {{{weights[kFfnDown], weights[kFfnDownBias], step.hidden}}});
  backend.Add(step.residual, step.hidden);
}

}  // namespace gguf_offload
