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
                     {kAttentionOutputBias, {shape.embedding}, /*optional=*/true},
                 });
  if (traits.head_norm) {
    tensors.push_back({kAttentionQNorm, {shape.key_dim}});
    tensors.push_back({kAttentionKNorm, {shape.key_dim}});
  }
}

void AppendFeedForwardTensors(const TransformerShape& shape, std::vector<TensorSpec>& tensors) {
  tensors.insert(tensors.end(), {
                                    {kFfnNorm, {shape.embedding}},
                                    {kFfnGate, {shape.embedding, shape.feed_forward}},
                                    {kFfnGateBias, {shape.feed_forward}, /*optional=*/true},
                                    {kFfnUp, {shape.embedding, shape.feed_forward}},
                                    {kFfnUpBias, {shape.feed_forward}, /*optional=*/true},
                                    {kFfnDown, {shape.feed_forward, shape.embedding}},
                                    {kFfnDownBias, {shape.embedding}, /*optional=*/true},
                                });
}

void GroupedQueryAttention(Backend& backend, int layer, const TransformerShape& shape,
                           const AttentionTraits& traits, const RopeFrequencies& frequencies,
                           const LayerWeights& weights, const StepActivations& step) {
  backend.RmsNorm(step.residual, weights[kAttentionNorm], shape.norm_epsilon, step.hidden);
  backend.Project(step.hidden, {{
                                   {weights[kAttentionQ], weights[kAttentionQBias], step.query},
                                   {weights[kAttentionK], weights[kAttentionKBias], step.key},
                                   {weights[kAttentionV], weights[kAttentionVBias], step.value},
                               }});
  backend.RotateAndStore(layer, step.query, step.key, step.value,
                         {.head_dim = shape.key_dim,
                          .frequencies = frequencies,
                          .style = traits.rope_style,
                          .query_norm = weights[kAttentionQNorm],
                          .key_norm = weights[kAttentionKNorm],
                          .epsilon = shape.norm_epsilon});
  backend.Attention(
      layer, step.query,
      {.scale = 1.0f / std::sqrt(static_cast<float>(shape.key_dim)), .heads = shape.heads},
      step.attention);
  backend.Project(step.attention,
                  {{{weights[kAttentionOutput], weights[kAttentionOutputBias], step.hidden}}});
}

void GatedFeedForward(Backend& backend, const TransformerShape& shape, const LayerWeights& weights,
                      const StepActivations& step) {
  backend.AddRmsNorm(step.residual, step.hidden, weights[kFfnNorm], shape.norm_epsilon,
                     step.hidden);
  backend.Project(step.hidden, {{
                                   {weights[kFfnGate], weights[kFfnGateBias], step.gate},
                                   {weights[kFfnUp], weights[kFfnUpBias], step.up},
                               }});
  backend.SwiGlu(step.gate, step.up);
  backend.Project(step.gate, {{{weights[kFfnDown], weights[kFfnDownBias], step.hidden}}});
  backend.Add(step.residual, step.hidden);
}

}  // namespace gguf_offload
