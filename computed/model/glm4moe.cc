// GLM-4.5, GLM-4.5-Air and GLM-4.6 (arXiv:2508.06471): RoPE on a part of each head, the first
// layers dense, then experts chosen by sigmoids plus a bias, beside shared ones. Only the large
// models normalize queries and keys.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateGlm4Moe(const v1::Manifest& manifest) {
  // It comes before the feed-forward, despite its name.
  constexpr TensorId kNorm = kPostAttentionNorm;
  return Transformer::Create(
      manifest, {.attention = {.rope_style = RopeStyle::kNeox, .norm = QueryKeyNorm::kHeadsIfThere},
                 .has_experts = TransformerTraits::Experts::kAlways,
                 .experts = {.gating = ExpertGating::kSigmoid,
                             .gating_from_file = true,
                             .selection_bias = true,
                             .shared = SharedExperts::kAdded,
                             .norm = kNorm},
                 .feed_forward_norm = kNorm});
}

}  // namespace gguf_offload
