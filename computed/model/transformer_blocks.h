// The blocks that transformer layers are made of. Architectures list their tensors and compose
// their layers from these.
#ifndef COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_
#define COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_

#include <vector>

#include "computed/model/architecture.h"

namespace gguf_offload {

// What distinguishes one family's attention from another's.
struct AttentionTraits {
  RopeStyle rope_style = RopeStyle::kNormal;
  bool qkv_bias = false;           // biases of q, k and v are required (optional otherwise)
  bool head_norm = false;          // q and k are normalized head by head before RoPE
  bool frequency_factors = false;  // rope_freqs.weight is used if there
};

// Tensors of grouped-query attention with its norm, and of a gated feed-forward with its norm.
void AppendAttentionTensors(const TransformerShape& shape, const AttentionTraits& traits,
                            std::vector<TensorSpec>& tensors);
void AppendFeedForwardTensors(const TransformerShape& shape, std::vector<TensorSpec>& tensors);

// residual -> step.hidden: what attention adds to the residual stream.
//   hidden = W_o attention(rope(norm?(W_q h)), rope(norm?(W_k h)), W_v h), h = norm(residual)
void GroupedQueryAttention(Backend& backend, int layer, const TransformerShape& shape,
                           const AttentionTraits& traits, const RopeFrequencies& frequencies,
                           const LayerWeights& weights, const StepActivations& step);

// Adds step.hidden to the residual stream, then the feed-forward of the sum:
//   residual += hidden; residual += W_down (silu(W_gate h) * W_up h), h = norm(residual)
void GatedFeedForward(Backend& backend, const TransformerShape& shape, const LayerWeights& weights,
                      const StepActivations& step);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_
