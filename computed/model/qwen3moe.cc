// Qwen3 with experts (arXiv:2505.09388): attention like the dense Qwen3's, and in every layer a
// choice of experts whose weights are normalized. Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3Moe(const v1::Manifest& manifest) {
  return Transformer::Create(
      manifest, {.attention = {.rope_style = RopeStyle::kNeox, .norm = QueryKeyNorm::kHeads},
                 .has_experts = TransformerTraits::Experts::kAlways,
                 .experts = {.weights_norm = WeightsNorm::kAlways}});
}

}  // namespace gguf_offload
