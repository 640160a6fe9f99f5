#include "computed/sampler/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "computed/sampler/argmax.h"
#include "computed/sampler/portable_exp.h"

namespace gguf_offload {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kMaxLogit = std::numeric_limits<float>::max();

absl::Status OutOfRange(const char* option, double value, const char* range) {
  return absl::InvalidArgumentError(absl::StrCat(option, " is ", value, ", must be ", range));
}

bool IsBetween(float value, float low, float high) { return value >= low && value <= high; }

// Makes a logit comparable: NaN becomes minus infinity, plus infinity the largest finite number.
float Clean(float logit) {
  if (std::isnan(logit)) return kMinusInfinity;
  return std::min(logit, kMaxLogit);
}

// SplitMix64's output function (Steele, Lea and Flood, 2014): a bijection that mixes all bits.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

constexpr uint64_t kGoldenGamma = 0x9E3779B97F4A7C15;

}  // namespace

absl::StatusOr<Sampler> Sampler::Create(const SamplingOptions& options) {
  const float kMax = std::numeric_limits<float>::max();
  if (!IsBetween(options.temperature, 0.0f, kMax)) {
    return OutOfRange("temperature", options.temperature, "0 or more");
  }
  if (options.top_k < 0) return OutOfRange("top_k", options.top_k, "0 or more");
  if (!IsBetween(options.top_p, 0.0f, 1.0f)) return OutOfRange("top_p", options.top_p, "in [0, 1]");
  if (!IsBetween(options.min_p, 0.0f, 1.0f)) return OutOfRange("min_p", options.min_p, "in [0, 1]");
  if (!(options.repetition_penalty > 0.0f) || options.repetition_penalty > kMax) {
    return OutOfRange("repetition_penalty", options.repetition_penalty, "more than 0");
  }
  if (!std::isfinite(options.frequency_penalty)) {
    return OutOfRange("frequency_penalty", options.frequency_penalty, "finite");
  }
  if (!std::isfinite(options.presence_penalty)) {
    return OutOfRange("presence_penalty", options.presence_penalty, "finite");
  }
  if (options.penalty_window < 0 || options.penalty_window > kLongestPenaltyWindow) {
    return OutOfRange("penalty_window", options.penalty_window, "in [0, 1048576]");
  }
  return Sampler(options);
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), history_(static_cast<size_t>(options.penalty_window)) {}

bool Sampler::TakesLargest() const {
  return (options_.temperature == 0.0f || options_.top_k == 1) &&
         options_.repetition_penalty == 1.0f && options_.frequency_penalty == 0.0f &&
         options_.presence_penalty == 0.0f;
}

int32_t Sampler::Sample(std::span<float> logits) {
  if (logits.empty()) return -1;
  ApplyPenalties(logits);
  if (options_.temperature == 0.0f || options_.top_k == 1) return ArgMax(logits);
  const bool has_top_k = options_.top_k > 0 && static_cast<size_t>(options_.top_k) < logits.size();
  if (has_top_k) {
    TakeTopK(logits);
  } else {
    TakeAll(logits);
  }
  if (options_.top_p < 1.0f) ApplyTopP(/*sorted=*/has_top_k);
  if (options_.min_p > 0.0f) ApplyMinP();
  return Draw();
}

void Sampler::ApplyPenalties(std::span<float> logits) const {
  if (options_.repetition_penalty == 1.0f && options_.frequency_penalty == 0.0f &&
      options_.presence_penalty == 0.0f) {
    return;
  }
  for (const auto& [token, count] : history_.counts()) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    float& logit = logits[token];
    if (logit > 0.0f) {
      logit /= options_.repetition_penalty;
    } else {
      logit *= options_.repetition_penalty;
    }
    logit -= static_cast<float>(count) * options_.frequency_penalty + options_.presence_penalty;
  }
}

void Sampler::TakeAll(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_[i] = {Clean(logits[i]), static_cast<int32_t>(i)};
  }
}

// Leaves the candidates sorted. A heap of k costs a comparison for nearly every logit, since few
// get into it; a large k would make it slower than selecting from all.
void Sampler::TakeTopK(std::span<const float> logits) {
  constexpr size_t kLargestHeap = 1024;
  const size_t k = static_cast<size_t>(options_.top_k);
  if (k > kLargestHeap) {
    TakeAll(logits);
    std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(), Before);
    candidates_.resize(k);
  } else {
    TakeAll(logits.first(k));
    std::make_heap(candidates_.begin(), candidates_.end(), Before);
    float worst = candidates_.front().logit;
    for (size_t i = k; i < logits.size(); ++i) {
      // False for NaN, and for equals, which come later in the order.
      if (!(std::min(logits[i], kMaxLogit) > worst)) continue;
      std::pop_heap(candidates_.begin(), candidates_.end(), Before);
      candidates_.back() = {Clean(logits[i]), static_cast<int32_t>(i)};
      std::push_heap(candidates_.begin(), candidates_.end(), Before);
      worst = candidates_.front().logit;
    }
  }
  std::sort(candidates_.begin(), candidates_.end(), Before);
}

float Sampler::MaxCandidateLogit() const {
  float max = kMinusInfinity;
  for (const Candidate& candidate : candidates_) max = std::max(max, candidate.logit);
  return max;
}

double Sampler::ComputeWeights(double max, double temperature) {
  weights_.resize(candidates_.size());
  for (size_t i = 0; i < candidates_.size(); ++i) {
    weights_[i] = PortableExp((candidates_[i].logit - max) / temperature);
  }
  double total = 0.0;
  for (double weight : weights_) total += weight;
  return total;
}

// Drops candidates, by means of a histogram of the weights, that sorting would only put behind
// those which add up to `wanted`.
void Sampler::DropUnlikely(double max, double wanted) {
  constexpr size_t kBuckets = 1024;
  constexpr double kBucketsPerUnit = 32.0;
  auto bucket_of = [&](const Candidate& candidate) {
    const double position = (max - candidate.logit) * kBucketsPerUnit;
    return position < kBuckets - 1 ? static_cast<size_t>(position) : kBuckets - 1;
  };
  std::vector<double> sums(kBuckets, 0.0);
  for (size_t i = 0; i < candidates_.size(); ++i) sums[bucket_of(candidates_[i])] += weights_[i];
  size_t last = 0;
  double sum = sums[0];
  while (last + 1 < kBuckets && sum < wanted) sum += sums[++last];
  // The sums are rounded in another order than ApplyTopP's; one bucket more makes up for it.
  std::erase_if(candidates_,
                [&](const Candidate& candidate) { return bucket_of(candidate) > last + 1; });
}

void Sampler::ApplyTopP(bool sorted) {
  const double max = MaxCandidateLogit();
  if (max == kMinusInfinity) return;
  const double wanted = options_.top_p * ComputeWeights(max, 1.0);
  if (!sorted) {
    DropUnlikely(max, wanted);
    std::sort(candidates_.begin(), candidates_.end(), Before);
    ComputeWeights(max, 1.0);
  }
  double sum = 0.0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    sum += weights_[i];
    if (sum >= wanted) {
      candidates_.resize(i + 1);
      return;
    }
  }
}

void Sampler::ApplyMinP() {
  const double max = MaxCandidateLogit();
  if (max == kMinusInfinity) return;
  // Most candidates are so far below that the exact comparison is not needed.
  const double far_below = std::log(options_.min_p) - 1e-6;
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    const double difference = candidate.logit - max;
    return difference < far_below || PortableExp(difference) < options_.min_p;
  });
}

int32_t Sampler::Draw() {
  const double uniform = NextUniform();  // in any case: one a step
  const double max = MaxCandidateLogit();
  if (max == kMinusInfinity) return 0;
  const double target = uniform * ComputeWeights(max, options_.temperature);
  double sum = 0.0;
  size_t last_possible = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (weights_[i] == 0.0) continue;
    sum += weights_[i];
    last_possible = i;
    if (target < sum) break;
  }
  return candidates_[last_possible].token;
}

// A counter-based generator: the n-th draw depends on the seed and n alone.
double Sampler::NextUniform() {
  const uint64_t bits = Mix(Mix(options_.seed + kGoldenGamma) + ++draws_ * kGoldenGamma);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace gguf_offload
