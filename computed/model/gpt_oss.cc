// gpt-oss (arXiv:2508.10925): attention with sinks, in every other layer within a sliding window;
// biases everywhere; experts with a clamped activation, weighted by a softmax over the chosen ones.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateGptOss(const v1::Manifest& manifest) {
  return Transformer::Create(manifest,
                             {.attention = {.rope_style = RopeStyle::kNeox, .sinks = true},
                              .has_experts = TransformerTraits::Experts::kAlways,
                              .experts = {.gating = ExpertGating::kSoftmaxOfChosen,
                                          .weights_norm = WeightsNorm::kNever,
                                          .activation = ExpertActivation::kClampedSwiGlu,
                                          .norm = kPostAttentionNorm},
                              .sliding_windows = true});
}

}  // namespace gguf_offload
