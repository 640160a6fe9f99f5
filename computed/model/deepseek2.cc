// DeepSeek-V2 and its Lite (arXiv:2405.04434), V3 and R1 (arXiv:2412.19437): latent attention, a
// few dense layers, then layers of routed and shared experts. V2 routes by softmax, V3 by sigmoid
// with a bias on the choice and groups of experts. RoPE on neighbouring pairs.
#include "computed/model/expert_blocks.h"
#include "computed/model/latent_attention.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

// What is so unless the file says otherwise. Files without expert_gating_func are V2's, but for
// GLM-4.7-Flash's early ones.
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmax,
                                   .gating_from_file = true,
                                   .selection_bias = true,
                                   .shared = SharedExperts::kAdded};

// GLM-4.7-Flash, with its block that predicts further tokens or without, was converted without an
// expert_gating_func although it routes by sigmoids (llama.cpp, issue 18980).
bool IsGlm47Flash(const TransformerShape& shape) {
  return (shape.layers == 47 || shape.layers == 48) && shape.vocabulary == 154'880;
}

class DeepSeek2 : public Architecture {
 public:
  DeepSeek2(const TransformerShape& shape, const LatentTraits& traits, const RopeParameters& rope)
      : shape_(shape), traits_(traits), frequencies_(rope) {}

  const TransformerShape& shape() const override { return shape_; }
  std::vector<TensorSpec> InputTensors() const override { return EmbeddingTensors(shape_); }
  std::vector<TensorSpec> HeadTensors() const override { return OutputTensors(shape_); }
  std::vector<TensorSpec> LayerTensors(int layer) const override;
  absl::Status Prepare(const LayerWeights& input) override { return absl::OkStatus(); }
  std::vector<const RopeFrequencies*> Rotations() const override { return {&frequencies_}; }
  void RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                const StepActivations& step) const override;

 private:
  bool IsDense(int layer) const { return layer < shape_.experts.dense_layers; }

  const TransformerShape shape_;
  const LatentTraits traits_;
  const RopeFrequencies frequencies_;
};

std::vector<TensorSpec> DeepSeek2::LayerTensors(int layer) const {
  std::vector<TensorSpec> tensors;
  AppendLatentAttentionTensors(shape_, traits_, tensors);
  if (IsDense(layer)) {
    AppendFeedForwardTensors(shape_, tensors);
  } else {
    AppendExpertTensors(shape_, kExperts, tensors);
  }
  return tensors;
}

void DeepSeek2::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                         const StepActivations& step) const {
  LatentAttention(backend, layer, shape_, traits_, frequencies_, weights, step);
  if (IsDense(layer)) {
    GatedFeedForward(backend, shape_, weights, step);
  } else {
    ExpertFeedForward(backend, shape_, kExperts, weights, step);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateDeepSeek2(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::StatusOr<LatentTraits> traits = ReadLatentShape(manifest, *shape);
  if (!traits.ok()) return traits.status();
  absl::StatusOr<RopeParameters> rope = ReadLatentRope(manifest, *shape, *traits);
  if (!rope.ok()) return rope.status();
  ExpertTraits experts = kExperts;
  if (IsGlm47Flash(*shape)) experts.gating = ExpertGating::kSigmoid;
  if (absl::Status status = ReadExpertShape(manifest, experts, *shape); !status.ok()) {
    return status;
  }
  return std::make_unique<DeepSeek2>(*shape, *traits, *rope);
}

}  // namespace gguf_offload
