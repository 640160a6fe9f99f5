// gpt-oss (arXiv:2508.10925): attention with sinks, in every other layer within a sliding window;
// biases everywhere; experts with a clamped activation, weighted by a softmax over the chosen ones.
#include "computed/model/expert_blocks.h"
#include "computed/model/read_or_return.h"
#include "computed/model/registry.h"
#include "computed/model/transformer_blocks.h"

namespace gguf_offload {
namespace {

constexpr AttentionTraits kAttention = {
    .rope_style = RopeStyle::kNeox, .qkv_bias = true, .output_bias = true, .sinks = true};
constexpr ExpertTraits kExperts = {.gating = ExpertGating::kSoftmaxOfChosen,
                                   .biases = true,
                                   .activation = ExpertActivation::kClampedSwiGlu,
                                   .norm = kPostAttentionNorm};

struct Window {
  int tokens = 0;
  int period = 0;
};

absl::StatusOr<Window> ReadWindow(const v1::Manifest& manifest) {
  const Metadata metadata(manifest);
  Window window;
  READ_OR_RETURN(window.tokens, metadata.Integer("attention.sliding_window", 1, 1 << 30));
  READ_OR_RETURN(window.period,
                 metadata.IntegerOr("attention.sliding_window_pattern", 2, 1, 1 << 16));
  return window;
}

class GptOss : public Architecture {
 public:
  GptOss(const TransformerShape& shape, const RopeParameters& rope, Window window)
      : shape_(shape), frequencies_(rope), window_(window) {}

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
  const Window window_;
};

std::vector<TensorSpec> GptOss::LayerTensors(int) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, kAttention, tensors);
  AppendExpertTensors(shape_, kExperts, tensors);
  return tensors;
}

void GptOss::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                      const StepActivations& step) const {
  // Of each `window_.period` layers the last sees everything.
  const bool windowed = layer % window_.period < window_.period - 1;
  GroupedQueryAttention(backend, layer, shape_, kAttention, frequencies_, weights, step,
                        windowed ? window_.tokens : 0);
  ExpertFeedForward(backend, shape_, kExperts, weights, step);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Architecture>> CreateGptOss(const v1::Manifest& manifest) {
  absl::StatusOr<TransformerShape> shape = ReadTransformerShape(manifest);
  if (!shape.ok()) return shape.status();
  absl::Status experts = ReadExpertShape(manifest, kExperts, *shape);
  if (!experts.ok()) return experts;
  absl::StatusOr<Window> window = ReadWindow(manifest);
  if (!window.ok()) return window.status();
  absl::StatusOr<RopeParameters> rope = ReadRopeParameters(manifest, *shape);
  if (!rope.ok()) return rope.status();
  return std::make_unique<GptOss>(*shape, *rope, *window);
}

}  // namespace gguf_offload
