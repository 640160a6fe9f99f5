// The blocks that transformer layers are made of. Architectures list their tensors and compose
// their layers from these.
#ifndef COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_
#define COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_

#include <vector>

#include "computed/model/architecture.h"

namespace gguf_offload {

// How queries and keys are normalized before RoPE.
enum class QueryKeyNorm {
  kNone,
  kHeads,         // head by head
  kHeadsIfThere,  // the same if the file has the weights
  kRows,          // all heads together
};

// What distinguishes one family's attention from another's.
struct AttentionTraits {
  RopeStyle rope_style = RopeStyle::kNormal;
  QueryKeyNorm norm = QueryKeyNorm::kNone;
  bool sinks = false;              // each head has a logit that only adds to its softmax's sum
  bool frequency_factors = false;  // rope_freqs.weight is used if there
};

// Tensors of grouped-query attention with its norm, and of a gated feed-forward with its norm.
void AppendAttentionTensors(const TransformerShape& shape, const AttentionTraits& traits,
                            std::vector<TensorSpec>& tensors);
void AppendFeedForwardTensors(const TransformerShape& shape, std::vector<TensorSpec>& tensors,
                              TensorId norm = kFfnNorm);

// Tensors outside the layers: the embedding; and the norm and the head, which may be the embedding.
std::vector<TensorSpec> EmbeddingTensors(const TransformerShape& shape);
std::vector<TensorSpec> OutputTensors(const TransformerShape& shape);

// residual -> step.hidden: what attention adds to the residual stream.
//   hidden = W_o attention(rope(norm?(W_q h)), rope(norm?(W_k h)), W_v h), h = norm(residual)
// With a sliding window, a token sees itself and the tokens before it, so many in all.
void GroupedQueryAttention(Backend& backend, int layer, const TransformerShape& shape,
                           const AttentionTraits& traits, const RopeFrequencies& frequencies,
                           const LayerWeights& weights, const StepActivations& step,
                           int sliding_window = 0);

// Adds step.hidden to the residual stream, then the feed-forward of the sum:
//   residual += hidden; residual += W_down (silu(W_gate h) * W_up h), h = norm(residual)
void GatedFeedForward(Backend& backend, const TransformerShape& shape, const LayerWeights& weights,
                      const StepActivations& step, TensorId norm = kFfnNorm);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_TRANSFORMER_BLOCKS_H_
