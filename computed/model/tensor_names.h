// The tensors that models are made of, by what they do, and their names in GGUF files.
#ifndef COMPUTED_MODEL_TENSOR_NAMES_H_
#define COMPUTED_MODEL_TENSOR_NAMES_H_

#include <array>
#include <string>

#include "absl/strings/string_view.h"
#include "computed/runtime/tensor.h"

namespace gguf_offload {

enum TensorId : int {
  // Outside the layers.
  kTokenEmbedding,
  kRopeFrequencyFactors,
  kOutputNorm,
  kOutput,
  // Attention.
  kAttentionNorm,
  kAttentionQ,
  kAttentionK,
  kAttentionV,
  kAttentionQkv,  // the three above in one matrix
  kAttentionQNorm,
  kAttentionKNorm,
  kAttentionOutput,
  kAttentionSinks,
  kPostAttentionNorm,
  // Multi-head latent attention.
  kAttentionQA,
  kAttentionQANorm,
  kAttentionQB,
  kAttentionKvA,
  kAttentionKvANorm,
  kAttentionKvB,
  kAttentionKB,
  kAttentionVB,
  // Dense feed-forward.
  kFfnNorm,
  kFfnGate,
  kFfnUp,
  kFfnGateUp,  // the two above in one matrix
  kFfnDown,
  // Mixture of experts.
  kRouter,
  kExpertSelectionBias,
  kExpertGate,
  kExpertUp,
  kExpertGateUp,  // the two above in one matrix of each expert
  kExpertDown,
  kSharedExpertRouter,
  kSharedExpertGate,
  kSharedExpertUp,
  kSharedExpertDown,
  kTensorIdCount,
};

// "blk.<layer>.attn_q.weight", or for layer -1 the name of a tensor outside the layers.
std::string TensorName(TensorId id, int layer);
// The same with another suffix: "blk.<layer>.attn_q.bias".
std::string TensorName(TensorId id, int layer, absl::string_view suffix);

// Whether activations are multiplied by the tensor, so that it may have a ".bias" and a ".scale".
bool IsLinear(TensorId id);

// The weights of one layer, or of one of the groups outside the layers, ready to be read.
class LayerWeights {
 public:
  const Weight& operator[](TensorId id) const { return weights_[id]; }
  Weight& operator[](TensorId id) { return weights_[id]; }

 private:
  std::array<Weight, kTensorIdCount> weights_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_TENSOR_NAMES_H_
