// MiniMax-M2: queries and keys are normalized over all heads at once, RoPE turns a part of each
// head, and experts are chosen by sigmoids plus a bias. (The model's card on Hugging Face,
// MiniMaxAI/MiniMax-M2, and its config.json.)
#include "computed/model/expert_blocks.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox,
                                        .norm = QueryKeyNorm::kRows};
constexpr ExpertTraits kExperts = {
    .gating = ExpertGating::kSigmoid, .normalize = true, .selection_bias = true};

class MiniMaxM2 : public Architecture {
 public:
  MiniMaxM2(const TransformerShape& shape, const RopeParameters& rope)
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

std::vector<TensorSpec> MiniMaxM2::LayerTensors(int) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, kAttention, tensors);
  AppendExpertTensors(shape_, kExperts, tensors);
  return tensors;
}

void MiniMaxM2::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                         const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, kAttention, frequencies_, weights, step);
  ExpertFeedForward(backend, shape_, kExperts, weights, step);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateMiniMaxM2(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<MiniMaxM2>(*shape, *rope);
}

}  // namespace gguf_offload
