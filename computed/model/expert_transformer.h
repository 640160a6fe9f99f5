// The decoder that several families with experts share.
#ifndef COMPUTED_MODEL_EXPERT_TRANSFORMER_H_
#define COMPUTED_MODEL_EXPERT_TRANSFORMER_H_

#include <vector>

#include "computed/model/architecture.h"
#include "computed/model/expert_blocks.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {

// A decoder of L layers, each grouped-query attention and a feed-forward with experts, alike in all
// layers: the whole of the families that differ in their traits only.
class ExpertTransformer : public Architecture {
 public:
  ExpertTransformer(const TransformerShape& shape, const AttentionTraits& attention,
                    const ExpertTraits& experts, const RopeParameters& rope)
      : shape_(shape), attention_(attention), experts_(experts), frequencies_(rope) {}

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
  const AttentionTraits attention_;
  const ExpertTraits experts_;
  const RopeFrequencies frequencies_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_EXPERT_TRANSFORMER_H_
