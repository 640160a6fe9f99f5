// Qwen3 with experts (arXiv:2505.09388): attention like the dense Qwen3's, and in every layer a
// choice of experts whose weights are normalized. Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
#include "computed/model/expert_transformer.h"
#include "computed/model/registry.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox,
                                        .norm = QueryKeyNorm::kHeads};
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmax, .normalize = true};

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3Moe(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<ExpertTransformer>(*shape, kAttention, kExperts, *rope);
}

}  // namespace gguf_offload
