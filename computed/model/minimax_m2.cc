// MiniMax-M2: queries and keys are normalized over all heads at once, RoPE turns a part of each
// head, and experts are chosen by sigmoids plus a bias. (The model's card on Hugging Face,
// MiniMaxAI/MiniMax-M2, and its config.json.)
#include "computed/model/expert_transformer.h"
#include "computed/model/registry.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox,
                                        .norm = QueryKeyNorm::kRows};
constexpr ExpertTraits kExperts = {
    .gating = ExpertGating::kSigmoid, .normalize = true, .selection_bias = true};

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateMiniMaxM2(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<ExpertTransformer>(*shape, kAttention, kExperts, *rope);
}

}  // namespace gguf_offload
