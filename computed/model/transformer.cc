#include "computed/model/transformer.h"

#include "absl/strings/str_cat.h"
#include "computed/model/read_or_return.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> Transformer::Create(const v1::Manifest& manifest,
                                                                  const TransformerTraits& traits) {
  using Experts = TransformerTraits::Experts;
  TransformerShape shape;
  READ_OR_RETURN(shape, ReadTransformerShape(manifest));
  int64_t experts = 0;
  READ_OR_RETURN(experts, Metadata(manifest).IntegerOr("expert_count", 0, 0, 1 << 16));
  if (traits.has_experts == Experts::kNone && experts != 0) {
    return absl::UnimplementedError(absl::StrCat("model '", manifest.name(), "': architecture ",
                                                 manifest.architecture(), " with ", experts,
                                                 " experts is not supported, only dense ones"));
  }
  if (traits.has_experts == Experts::kAlways || experts != 0) {
    absl::Status status = ReadExpertShape(manifest, traits.experts, shape);
    if (!status.ok()) return status;
  }
  RopeParameters rope;
  READ_OR_RETURN(rope, ReadRopeParameters(manifest, shape));
  Windows windows;
  if (traits.sliding_windows) READ_OR_RETURN(windows, ReadWindows(manifest, shape, rope));
  return std::unique_ptr<Architecture>(new Transformer(shape, traits, rope, windows));
}

absl::StatusOr<Transformer::Windows> Transformer::ReadWindows(const v1::Manifest& manifest,
                                                              const TransformerShape& shape,
                                                              const RopeParameters& rope) {
  constexpr absl::string_view kPattern = "attention.sliding_window_pattern";
  const Metadata metadata(manifest);
  Windows windows{.rope = rope};
  READ_OR_RETURN(windows.tokens, metadata.Integer("attention.sliding_window", 1, 1 << 30));
  READ_OR_RETURN(windows.rope.freq_base,
                 metadata.NumberOr("rope.freq_base_swa", rope.freq_base, 1e-3, 1e12));
  if (metadata.IsArray(kPattern)) {
    READ_OR_RETURN(windows.in_layer, metadata.Flags(kPattern, shape.layers));
    return windows;
  }
  int period = 0;
  READ_OR_RETURN(period, metadata.IntegerOr(kPattern, 2, 0, 1 << 16));
  for (int layer = 0; layer < shape.layers; ++layer) {
    // A period of 0: all layers have the window (llama.cpp, llama_hparams::set_swa_pattern).
    windows.in_layer.push_back(period == 0 || layer % period < period - 1);
  }
  return windows;
}

std::vector<TensorSpec> Transformer::InputTensors() const {
  std::vector<TensorSpec> tensors = EmbeddingTensors(shape_);
  if (traits_.attention.frequency_factors) {
    tensors.push_back({kRopeFrequencyFactors, {rope_.rope_dims / 2}, /*optional=*/true});
  }
  return tensors;
}

std::vector<TensorSpec> Transformer::LayerTensors(int layer) const {
  std::vector<TensorSpec> tensors;
  AppendAttentionTensors(shape_, traits_.attention, tensors);
  if (HasExperts(layer)) {
    AppendExpertTensors(shape_, traits_.experts, tensors);
  } else {
    AppendFeedForwardTensors(shape_, tensors, traits_.feed_forward_norm);
  }
  return tensors;
}

absl::Status Transformer::Prepare(const LayerWeights& input) {
  const Weight& factors = input[kRopeFrequencyFactors];
  if (factors) rope_.freq_factors = factors.floats();
  frequencies_ = RopeFrequencies(rope_);
  if (!windows_.in_layer.empty()) window_frequencies_ = RopeFrequencies(windows_.rope);
  return absl::OkStatus();
}

std::vector<const RopeFrequencies*> Transformer::Rotations() const {
  if (windows_.in_layer.empty() || windows_.rope.freq_base == rope_.freq_base) {
    return {&frequencies_};
  }
  return {&frequencies_, &window_frequencies_};
}

void Transformer::RunLayer(Backend& backend, int layer, const LayerWeights& weights,
                           const StepActivations& step) const {
  const bool window = HasWindow(layer);
  const RopeFrequencies& frequencies =
      window && Rotations().size() > 1 ? window_frequencies_ : frequencies_;
  GroupedQueryAttention(backend, layer, shape_, traits_.attention, frequencies, weights, step,
                        window ? windows_.tokens : 0);
  if (HasExperts(layer)) {
    ExpertFeedForward(backend, shape_, traits_.experts, weights, step);
  } else {
    GatedFeedForward(backend, shape_, weights, step, traits_.feed_forward_norm);
  }
}

}  // namespace gguf_offload
