// Qwen1.5-MoE and Qwen2-57B-A14B (arXiv:2407.10671): attention like the dense Qwen2's, and in every
// layer a choice of experts, whose weights are not normalized, beside a gated shared expert.
#include "computed/model/expert_blocks.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox, .qkv_bias = true};
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmax,
                                   .shared = SharedExperts::kGated};

class Qwen2Moe : public Architecture {
 public:
  Qwen2Moe(const TransformerShape& shape, const RopeParameters& rope)
      : shape_(shape), frequencies_(rope) {}

  const TransformerShape& shape() const override { return shape_; }
  std::vector<TensorSpec> InputTensors() const override { return EmbeddingTensors(shape_); }
  std::vector<TensorSpec> HeadTensors() const override { return OutputTensors(shape_); }
  std::vector<TensorSpec> LayerTensors(int layer) const override;
  absl::Status Prepare(const LayerWeights&) override { return absl::OkStatus(); }
  std::vector<const RopeFrequencies*> Rotations() const override { return {&frequencies_}; }
  void RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                const StepActivations& step) const override;

 private:
  const TransformerShape shape_;
  const RopeFrequencies frequencies_;
};

std::vector<TensorSpec> Qwen2Moe::LayerTensors(int) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, kAttention, tensors);
  AppendExpertTensors(shape_, kExperts, tensors);
  return tensors;
}

void Qwen2Moe::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                        const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, kAttention, frequencies_, weights, step);
  ExpertFeedForward(backend, shape_, kExperts, weights, step);
}

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
  return std::make_unique<Qwen2Moe>(*shape, *rope);
}

}  // namespace gguf_offload
