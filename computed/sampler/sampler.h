// Chooses the next token from a model's logits.
#ifndef COMPUTED_SAMPLER_SAMPLER_H_
#define COMPUTED_SAMPLER_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/sampler/token_history.h"

namespace gguf_offload {

// The steps are taken in this order, which is that of llama.cpp's default chain:
//   penalties, top_k, top_p, min_p, temperature, draw.
// So top_p and min_p see the probabilities of the penalized logits at temperature 1, top_p those of
// the tokens that top_k left.
struct SamplingOptions {
  // 0: the most probable token (after penalties), and no draw.
  float temperature = 1.0f;
  // Keep the k most probable tokens; 0: all.
  int top_k = 0;
  // Keep the most probable tokens whose probabilities add up to at least top_p, in [0, 1]; one
  // token is always kept. 1: all.
  float top_p = 1.0f;
  // Drop tokens whose probability is below min_p times that of the most probable one, in [0, 1].
  float min_p = 0.0f;
  // For tokens in the window: positive logits are divided by it, others multiplied. 1: off.
  float repetition_penalty = 1.0f;
  // Taken from a token's logit for each of its occurrences in the window.
  float frequency_penalty = 0.0f;
  // Taken from a token's logit if it occurs in the window.
  float presence_penalty = 0.0f;
  // The penalties look at the last so many tokens given to Accept, prompt included.
  int penalty_window = 64;
  // The same seed, options, tokens and logits give the same choices on every machine.
  uint64_t seed = 0;
};

// One sequence's sampler. Movable; not thread safe.
class Sampler {
 public:
  static constexpr int kLongestPenaltyWindow = 1 << 20;

  // InvalidArgument naming the option if one is NaN, infinite or out of its range.
  static absl::StatusOr<Sampler> Create(const SamplingOptions& options);

  // Records a token of the sequence: those of the prompt, then each that was sampled.
  void Accept(int32_t token) { history_.Add(token); }

  // Whether Sample always chooses the token with the largest logit, the first of equals: whoever
  // knows it need not ask.
  bool TakesLargest() const;

  // The chosen token, in [0, logits.size()), or -1 if `logits` is empty. Applies the penalties to
  // `logits`, (vocab), in place. NaN counts as minus infinity; if no logit is better than that,
  // token 0 is chosen.
  int32_t Sample(std::span<float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  // More probable first; of equals the smaller token, so that the order is the same everywhere.
  static bool Before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  explicit Sampler(const SamplingOptions& options);

  void ApplyPenalties(std::span<float> logits) const;
  void TakeAll(std::span<const float> logits);
  void TakeTopK(std::span<const float> logits);
  float MaxCandidateLogit() const;
  // Sets weights_ to e^((logit - max) / temperature) and returns their sum.
  double ComputeWeights(double max, double temperature);
  void DropUnlikely(double max, double wanted);
  void ApplyTopP(bool sorted);
  void ApplyMinP();
  int32_t Draw();
  double NextUniform();

  SamplingOptions options_;
  TokenHistory history_;
  uint64_t draws_ = 0;
  // Kept from step to step for their storage.
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;  // of candidates_
};

}  // namespace gguf_offload

#endif  // COMPUTED_SAMPLER_SAMPLER_H_
