// LLaMA (Touvron et al. 2023, arXiv:2302.13971) and its many descendants: Llama 2 and 3, Mistral,
// SmolLM; with experts Mixtral (arXiv:2401.04088), whose weights are a softmax over the chosen
// ones. RoPE on neighbouring pairs; Llama 3.1 on adds frequency factors.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateLlama(const v1::Manifest& manifest) {
  return Transformer::Create(
      manifest, {.attention = {.rope_style = RopeStyle::kNormal, .frequency_factors = true},
                 .has_experts = TransformerTraits::Experts::kIfCounted,
                 .experts = {.weights_norm = WeightsNorm::kAlways,
                             .optional_gate = true,
                             .expert_as_wide_as_dense = true}});
}

}  // namespace gguf_offload
