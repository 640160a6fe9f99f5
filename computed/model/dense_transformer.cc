#include "computed/model/dense_transformer.h"

#include "absl/strings/str_cat.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> DenseTransformer::Create(
    const v1::Manifest& manifest, const AttentionTraits& traits) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  absl::StatusOr<int64_t> experts = Metadata(manifest).IntegerOr("expert_count", 0, 0, 1 << 16);
  if (!experts.ok()) return experts.status();
  if (*experts != 0) {
    return absl::UnimplementedError(absl::StrCat("model '", manifest.name(), "': architecture ",
                                                 manifest.architecture(), " with ", *experts,
                                                 " experts is not supported, only dense ones"));
  }
  return std::unique_ptr<Architecture>(new DenseTransformer(*shape, traits, *rope));
}

std::vector<TensorSpec> DenseTransformer::InputTensors() const {
  std::vector<TensorSpec> tensors = EmbeddingTensors(shape_);
  if (traits_.frequency_factors) {
    tensors.push_back({kRopeFrequencyFactors, {rope_.rope_dims / 2}, /*optional=*/true});
  }
  return tensors;
}

std::vector<TensorSpec> DenseTransformer::HeadTensors() const { return OutputTensors(shape_); }

std::vector<TensorSpec> DenseTransformer::LayerTensors(int layer) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, traits_, tensors);
  AppendFeedForwardTensors(shape_, tensors);
  return tensors;
}

absl::Status DenseTransformer::Prepare(const LayerWeights& input) {
  const Weight& factors = input[kRopeFrequencyFactors];
  if (factors) rope_.freq_factors = factors.floats();
  frequencies_ = RopeFrequencies(rope_);
  return absl::OkStatus();
}

void DenseTransformer::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                                const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, traits_, frequencies_, weights, step);
  GatedFeedForward(backend, shape_, weights, step);
}

}  // namespace gguf_offload
