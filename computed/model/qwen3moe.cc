// Qwen3 with experts (arXiv:2505.09388): attention like the dense Qwen3's, and in every layer a
// choice of experts whose weights are normalized. Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
#include "computed/model/expert_blocks.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox,
                                        .norm = QueryKeyNorm::kHeads};
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmax, .normalize = true};

class Qwen3Moe : public Architecture {
 public:
  Qwen3Moe(const TransformerShape& shape, const RopeParameters& rope)
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

std::vector<TensorSpec> Qwen3Moe::LayerTensors(int) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, kAttention, tensors);
  AppendExpertTensors(shape_, kExperts, tensors);
  return tensors;
}

void Qwen3Moe::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                        const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, kAttention, frequencies_, weights, step);
  ExpertFeedForward(backend, shape_, kExperts, weights, step);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3Moe(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<Qwen3Moe>(*shape, *rope);
}

}  // namespace gguf_offload
