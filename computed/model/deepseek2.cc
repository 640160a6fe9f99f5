// DeepSeek-V2 and its Lite (arXiv:2405.04434), V3 and R1 (arXiv:2412.19437): latent attention, a
// few dense layers, then layers of routed and shared experts. V2 routes by softmax, V3 by sigmoid
// with a bias on the choice and groups of experts. RoPE on neighbouring pairs.
#include "computed/model/expert_blocks.h"
#include "computed/model/latent_attention.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

// What files say that were written before there were keys for it: that is V2.
constexpr ExpertTraits kExperts = {
    .gating = ExpertGating::kSoftmax, .selection_bias = true, .shared = SharedExperts::kAdded};

class DeepSeek2 : public Architecture {
 public:
  DeepSeek2(const TransformerShape& shape, const LatentTraits& traits, const RopeParameters& rope)
      : shape_(shape), traits_(traits), frequencies_(rope) {}

  const TransformerShape& shape() const override { return shape_; }
  std::vector<TensorSpec> InputTensors() const override;
  std::vector<TensorSpec> HeadTensors() const override;
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

std::vector<TensorSpec> DeepSeek2::InputTensors() const {
  return {{kTokenEmbedding, {shape_.embedding, shape_.vocabulary}}};
}

std::vector<TensorSpec> DeepSeek2::HeadTensors() const {
  return {
      {kOutputNorm, {shape_.embedding}},
      {kOutput, {shape_.embedding, shape_.vocabulary}, /*optional=*/true},
  };
}

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
  if (absl::Status status = ReadExpertShape(manifest, kExperts, *shape); !status.ok()) {
    return status;
  }
  return std::make_unique<DeepSeek2>(*shape, *traits, *rope);
}

}  // namespace gguf_offload
