// The mixture-of-experts feed-forward: what it reads from metadata, its tensors, and its forward
// pass. Architectures call these for their layers with experts.
#ifndef COMPUTED_MODEL_EXPERT_BLOCKS_H_
#define COMPUTED_MODEL_EXPERT_BLOCKS_H_

#include <vector>

#include "computed/model/architecture.h"

namespace gguf_offload {

// Experts that every token goes through, beside those chosen for it.
enum class SharedExperts {
  kNone,
  kAdded,
  kGated,  // multiplied by sigmoid(gate h)
};

// Whether the weights of the chosen experts are divided by their sum.
enum class WeightsNorm {
  kFromFile,  // by expert_weights_norm; without it they are not
  kAlways,
  kNever,
};

// What distinguishes one family's experts from another's.
struct ExpertTraits {
  ExpertGating gating = ExpertGating::kSoftmax;
  bool gating_from_file = false;  // by expert_gating_func, if it is there
  WeightsNorm weights_norm = WeightsNorm::kFromFile;
  bool selection_bias = false;  // exp_probs_b is used if it is there
  // Files may have no gates: such an expert is W_down silu(W_up h).
  bool optional_gate = false;
  ExpertActivation activation = ExpertActivation::kSwiGlu;
  SharedExperts shared = SharedExperts::kNone;
  // What feed_forward_length says where a file does not give the width of an expert: that width, or
  // else that of all chosen ones together. And whether it is that of shared experts whose width the
  // file does not give, but which it has.
  bool expert_as_wide_as_dense = false;
  bool shared_as_wide_as_dense = false;
  TensorId norm = kFfnNorm;  // before the feed-forward
};

// Reads the keys expert_* and leading_dense_block_count into shape.experts. INVALID_ARGUMENT if
// there are no experts or their numbers make no sense. `shape` is what ReadTransformerShape
// returned. The width of the shared experts is expert_shared_feed_forward_length or else
// expert_shared_count times that of one expert. A width of 0 stands for one that is not given.
absl::Status ReadExpertShape(const v1::Manifest& manifest, const ExpertTraits& traits,
                             TransformerShape& shape);

// Tensors of a feed-forward with experts, with its norm.
void AppendExpertTensors(const TransformerShape& shape, const ExpertTraits& traits,
                         std::vector<TensorSpec>& tensors);

// Adds step.hidden to the residual stream, then the feed-forward of the sum:
//   residual += hidden; h = norm(residual)
//   residual += sum over the chosen experts of weight * expert(h) + gate? * shared(h)
// where every expert, the shared ones included, is W_down activation(W_gate h, W_up h).
void ExpertFeedForward(Backend& backend, const TransformerShape& shape, const ExpertTraits& traits,
                       const LayerWeights& weights, const StepActivations& step);

// Tells the backend how the layer of `weights` chooses its experts, before the layer ahead of it
// runs (Backend::PredictExperts). Nothing for a layer that has no experts.
void PredictExperts(Backend& backend, const TransformerShape& shape, const LayerWeights& weights);

// Tells the backend what the layer of `next` begins with, before the one of `weights` runs
// (Backend::ReadAfterExperts). Nothing behind a layer that has no experts.
void ReadAfterExperts(Backend& backend, const LayerWeights& weights, const LayerWeights& next);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_EXPERT_BLOCKS_H_
