// The dense decoder that the llama and qwen families share.
#ifndef COMPUTED_MODEL_DENSE_TRANSFORMER_H_
#define COMPUTED_MODEL_DENSE_TRANSFORMER_H_

#include <memory>
#include <vector>

#include "computed/model/architecture.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {

// A decoder of L layers, each grouped-query attention and a gated feed-forward: the whole of the
// dense llama and qwen families, which differ in their traits only.
class DenseTransformer : public Architecture {
 public:
  static absl::StatusOr<std::unique_ptr<Architecture>> Create(const v1::Manifest& manifest,
                                                              const AttentionTraits& traits);

  const TransformerShape& shape() const override { return shape_; }
  std::vector<TensorSpec> InputTensors() const override;
  std::vector<TensorSpec> HeadTensors() const override;
  std::vector<TensorSpec> LayerTensors(int layer) const override;
  absl::Status Prepare(const LayerWeights& input) override;
  std::vector<const RopeFrequencies*> Rotations() const override { return {&frequencies_}; }
  void RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                const StepActivations& step) const override;

 private:
  DenseTransformer(TransformerShape shape, AttentionTraits traits, RopeParameters rope)
      : shape_(shape), traits_(traits), rope_(rope) {}

  const TransformerShape shape_;
  const AttentionTraits traits_;
  RopeParameters rope_;
  RopeFrequencies frequencies_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_DENSE_TRANSFORMER_H_
