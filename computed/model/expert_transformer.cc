#include "computed/model/expert_transformer.h"

namespace gguf_offload {

std::vector<TensorSpec> ExpertTransformer::LayerTensors(int) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, attention_, tensors);
  AppendExpertTensors(shape_, experts_, tensors);
  return tensors;
}

void ExpertTransformer::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                                 const StepActivations& step) const {
  GroupedQueryAttention(backend, layer, shape_, attention_, frequencies_, weights, step);
  ExpertFeedForward(backend, shape_, experts_, weights, step);
}

}  // namespace gguf_offload
