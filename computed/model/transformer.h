// The decoder that most families share: layers of grouped-query attention, each followed by a gated
// feed-forward or by experts.
#ifndef COMPUTED_MODEL_TRANSFORMER_H_
#define COMPUTED_MODEL_TRANSFORMER_H_

#include <memory>
#include <vector>

#include "computed/model/architecture.h"
#include "computed/model/expert_blocks.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {

// What distinguishes one family from another.
struct TransformerTraits {
  enum class Experts { kNone, kIfCounted, kAlways };

  AttentionTraits attention;
  Experts has_experts = Experts::kNone;  // kIfCounted: expert_count says so
  ExpertTraits experts;
  TensorId feed_forward_norm = kFfnNorm;  // before the feed-forward, with experts or without
  bool sliding_windows = false;           // in some of the layers; see ReadWindows
};

// The whole of the families that differ in their traits only. The first
// shape().experts.dense_layers layers have no experts.
class Transformer : public Architecture {
 public:
  static absl::StatusOr<std::unique_ptr<Architecture>> Create(const v1::Manifest& manifest,
                                                              const TransformerTraits& traits);

  const TransformerShape& shape() const override { return shape_; }
  std::vector<TensorSpec> InputTensors() const override;
  std::vector<TensorSpec> HeadTensors() const override { return OutputTensors(shape_); }
  std::vector<TensorSpec> LayerTensors(int layer) const override;
  absl::Status Prepare(const LayerWeights& input) override;
  std::vector<const RopeFrequencies*> Rotations() const override;
  void RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                const StepActivations& step) const override;

 private:
  // Which layers see only so many tokens, and how those are rotated.
  struct Windows {
    int tokens = 0;
    std::vector<bool> in_layer;  // (layers), or empty: in none
    RopeParameters rope;
  };

  Transformer(const TransformerShape& shape, const TransformerTraits& traits,
              const RopeParameters& rope, const Windows& windows)
      : shape_(shape), traits_(traits), rope_(rope), windows_(windows) {}
  // Reads attention.sliding_window, attention.sliding_window_pattern (a period, whose last layer
  // sees everything, or for each layer whether it has the window), and rope.freq_base_swa.
  static absl::StatusOr<Windows> ReadWindows(const v1::Manifest& manifest,
                                             const TransformerShape& shape,
                                             const RopeParameters& rope);

  bool HasExperts(int layer) const {
    return shape_.has_experts() && layer >= shape_.experts.dense_layers;
  }
  bool HasWindow(int layer) const { return !windows_.in_layer.empty() && windows_.in_layer[layer]; }

  const TransformerShape shape_;
  const TransformerTraits traits_;
  RopeParameters rope_;
  Windows windows_;
  RopeFrequencies frequencies_;
  RopeFrequencies window_frequencies_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_TRANSFORMER_H_
