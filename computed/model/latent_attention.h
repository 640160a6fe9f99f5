// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): what it reads from
// metadata, its tensors, and its forward pass.
//
// Keys and values of all heads are products of one latent vector a position, and that is what the
// cache holds, with one rotated key for all heads behind it: kv_rank + rope_dim elements. Instead
// of expanding it for every head and position, queries go to the latent space (W_k^T q; the paper
// calls it absorption), attend to the latent vectors there, and what they gather comes back (W_v).
// This is the same sum in another order, for prompts as for single tokens.
#ifndef COMPUTED_MODEL_LATENT_ATTENTION_H_
#define COMPUTED_MODEL_LATENT_ATTENTION_H_

#include <vector>

#include "computed/model/architecture.h"

namespace gguf_offload {

// How a file stores the projections from the latent vector.
enum class LatentForm {
  kSplit,     // attn_k_b, transposed for absorption, and attn_v_b
  kCombined,  // attn_kv_b: for each head the rows of its keys, then those of its values
};

struct LatentTraits {
  LatentForm form = LatentForm::kSplit;
  RopeStyle rope_style = RopeStyle::kNormal;
  float scale = 1;  // of the scores
};

// Reads attention.q_lora_rank, attention.kv_lora_rank, the heads' widths and rope.dimension_count
// into shape.latent and makes the rest of `shape`, which ReadTransformerShape returned, that of the
// latent cache.
absl::StatusOr<LatentTraits> ReadLatentShape(const v1::Manifest& manifest, TransformerShape& shape);

// Reads the rotation, and the scale that goes with it.
absl::StatusOr<RopeParameters> ReadLatentRope(const v1::Manifest& manifest,
                                              const TransformerShape& shape, LatentTraits& traits);

// Tensors of latent attention with its norm.
void AppendLatentAttentionTensors(const TransformerShape& shape, const LatentTraits& traits,
                                  std::vector<TensorSpec>& tensors);

// residual -> step.hidden: what attention adds to the residual stream.
void LatentAttention(Backend& backend, int layer, const TransformerShape& shape,
                     const LatentTraits& traits, const RopeFrequencies& frequencies,
                     const LayerWeights& weights, const StepActivations& step);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_LATENT_ATTENTION_H_
