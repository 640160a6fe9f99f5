// GLM-4.5, GLM-4.5-Air and GLM-4.6 (arXiv:2508.06471): RoPE on a part of each head, the first
// layers dense, then experts chosen by sigmoids plus a bias, beside shared ones. Only the large
// models normalize queries and keys. Layers at the end that predict the tokens after the next
// (nextn_predict_layers) take no part in the forward pass.
#include "computed/model/expert_blocks.h"
#include "computed/model/read_or_return.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {.rope_style = RopeStyle::kNeox,
                                        .norm = QueryKeyNorm::kHeadsIfThere};
constexpr TensorId kNorm = kPostAttentionNorm;  // before the feed-forward, despite its name
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSigmoid,
                                   .normalize = true,
                                   .selection_bias = true,
                                   .shared = SharedExperts::kAdded,
                                   .norm = kNorm};

class Glm4Moe : public Architecture {
 public:
  Glm4Moe(const TransformerShape& shape, const RopeParameters& rope)
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

std::vector<TensorSpec> Glm4Moe::LayerTensors(int layer) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, kAttention, tensors);
  if (layer < shape_.experts.dense_layers) {
    AppendFeedForwardTensors(shape_, tensors, kNorm);
  } else {
    AppendExpertTensors(shape_, kExperts, tensors);
  }
  return tensors;
}

void Glm4Moe::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                       const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, kAttention, frequencies_, weights, step);
  if (layer < shape_.experts.dense_layers) {
    GatedFeedForward(backend, shape_, weights, step, kNorm);
  } else {
    ExpertFeedForward(backend, shape_, kExperts, weights, step);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateGlm4Moe(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  int prediction_layers = 0;
  READ_OR_RETURN(prediction_layers,
                 Metadata(manifest).IntegerOr("nextn_predict_layers", 0, 0, shape->layers - 1));
  shape->layers -= prediction_layers;
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<Glm4Moe>(*shape, *rope);
}

}  // namespace gguf_offload
