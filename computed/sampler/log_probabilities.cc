#include "computed/sampler/log_probabilities.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "computed/sampler/argmax.h"
#include "computed/sampler/portable_exp.h"

namespace gguf_offload {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

float Clean(float logit) {
  if (std::isnan(logit)) return kMinusInfinity;
  return std::min(logit, std::numeric_limits<float>::max());
}

// Sum of e^(logit - max). In blocks, because only the exponentials can be taken by vectors.
double ExpSum(std::span<const float> logits, double max) {
  constexpr size_t kBlock = 512;
  double exponentials[kBlock];
  double total = 0.0;
  while (!logits.empty()) {
    const size_t count = std::min(kBlock, logits.size());
    for (size_t i = 0; i < count; ++i) {
      const float logit = logits[i];
      const double difference = std::min(logit, std::numeric_limits<float>::max()) - max;
      exponentials[i] = std::isnan(logit) ? 0.0 : PortableExp(difference);
    }
    for (size_t i = 0; i < count; ++i) total += exponentials[i];
    logits = logits.subspan(count);
  }
  return total;
}

}  // namespace

StepLogProbabilities LogProbabilities(std::span<const float> logits, int32_t chosen, int top_n) {
  const double max = Clean(MaxLogit(logits));
  double log_total = 0.0;  // log of the sum of e^(logit - max)
  if (max > kMinusInfinity) {
    log_total = std::log(ExpSum(logits, max));
  }
  auto log_probability = [&](int32_t token) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size() || max == kMinusInfinity) {
      return kMinusInfinity;
    }
    return static_cast<float>(Clean(logits[token]) - max - log_total);
  };
  StepLogProbabilities result;
  result.chosen = {chosen, log_probability(chosen)};
  const size_t count = std::min(logits.size(), static_cast<size_t>(std::max(top_n, 0)));
  if (count == 0) return result;
  std::vector<int32_t> tokens(logits.size());
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  std::partial_sort(tokens.begin(), tokens.begin() + count, tokens.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = Clean(logits[a]);
                      const float y = Clean(logits[b]);
                      return x > y || (x == y && a < b);
                    });
  for (size_t i = 0; i < count; ++i) {
    result.top.push_back({tokens[i], log_probability(tokens[i])});
  }
  return result;
}

}  // namespace gguf_offload
