// Qwen1.5-MoE and Qwen2-57B-A14B (arXiv:2407.10671): attention like the dense Qwen2's, and in every
// layer a choice of experts, whose weights are not normalized, beside a gated shared expert.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2Moe(const v1::Manifest& manifest) {
  return Transformer::Create(manifest, {.attention = {.rope_style = RopeStyle::kNeox},
                                        .has_experts = TransformerTraits::Experts::kAlways,
                                        .experts = {.weights_norm = WeightsNorm::kNever,
                                                    .shared = SharedExperts::kGated,
                                                    .shared_as_wide_as_dense = true}});
}

}  // namespace gguf_offload
