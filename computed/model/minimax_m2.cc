// MiniMax-M2: queries and keys are normalized over all heads at once, RoPE turns a part of each
// head, and experts are chosen by sigmoids plus a bias; their weights are normalized whatever the
// file says. (The model's card on Hugging Face, MiniMaxAI/MiniMax-M2, and its config.json.)
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateMiniMaxM2(const v1::Manifest& manifest) {
  return Transformer::Create(
      manifest, {.attention = {.rope_style = RopeStyle::kNeox, .norm = QueryKeyNorm::kRows},
                 .has_experts = TransformerTraits::Experts::kAlways,
                 .experts = {.gating = ExpertGating::kSigmoid,
                             .gating_from_file = true,
                             .weights_norm = WeightsNorm::kAlways,
                             .selection_bias = true,
                             .expert_as_wide_as_dense = true}});
}

}  // namespace gguf_offload
