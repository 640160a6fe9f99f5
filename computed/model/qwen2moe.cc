// Qwen1.5-MoE and Qwen2-57B-A14B (arXiv:2407.10671): attention like the dense Qwen2's, and in every
// layer a choice of experts, whose weights are not normalized, beside a gated shared expert.
#include "computed/model/expert_transformer.h"
#include "computed/model/registry.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox, .qkv_bias = true};
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmax,
                                   .shared = SharedExperts::kGated};

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2Moe(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  // Files that do not say how wide the shared expert is have one as wide as the chosen ones
  // together.
  if (shape->experts.shared_feed_forward == 0) {
    shape->experts.shared_feed_forward = shape->feed_forward;
  }
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<ExpertTransformer>(*shape, kAttention, kExperts, *rope);
}

}  // namespace gguf_offload
