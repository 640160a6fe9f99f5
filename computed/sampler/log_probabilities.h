// Log probabilities of tokens, for answers that report them.
#ifndef COMPUTED_SAMPLER_LOG_PROBABILITIES_H_
#define COMPUTED_SAMPLER_LOG_PROBABILITIES_H_

#include <cstdint>
#include <span>
#include <vector>

namespace gguf_offload {

struct TokenLogProbability {
  int32_t token = -1;
  float log_probability = 0.0f;  // natural logarithm
};

struct StepLogProbabilities {
  TokenLogProbability chosen;
  std::vector<TokenLogProbability> top;  // most probable first; of equals the smaller token
};

// Log-softmax of `logits`, (vocab), for `chosen` and for the `top_n` most probable tokens (as many
// as there are). What the model says: to be called before Sampler::Sample, which edits the logits.
// NaN counts as minus infinity. A token out of range has minus infinity.
StepLogProbabilities LogProbabilities(std::span<const float> logits, int32_t chosen, int top_n);

}  // namespace gguf_offload

#endif  // COMPUTED_SAMPLER_LOG_PROBABILITIES_H_
