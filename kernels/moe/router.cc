#include "kernels/moe/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/ops/vector.h"

namespace gguf_offload {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Sums of weights are taken to be at least the smallest normal float16, so that a token whose
// experts all have weight 0 does not divide by it (as llama.cpp has it).
constexpr float kSmallestSum = 6.103515625e-5f;

// None of the values may be NaN. Puts the `count` indices with the largest values in front, in
// descending order; of equal values, the smaller index comes first.
void SelectLargest(const float* values, int count, std::vector<int32_t>& indices) {
  std::partial_sort(indices.begin(), indices.begin() + count, indices.end(),
                    [values](int32_t a, int32_t b) {
                      return values[a] != values[b] ? values[a] > values[b] : a < b;
                    });
}

// The sum of the two largest of `values`, or the value if there is but one.
float SumOfTwoBest(const float* values, int count) {
  float best = kLowest, second = kLowest;
  for (int i = 0; i < count; ++i) {
    if (values[i] > best) {
      second = best;
      best = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  const float sum = count == 1 ? best : best + second;
  return std::isnan(sum) ? kLowest : sum;  // infinities of both signs
}

void Normalize(float* weights, int used) {
  float sum = 0;
  for (int i = 0; i < used; ++i) sum += weights[i];
  // Not std::max, which would lose NaN.
  if (sum < kSmallestSum) sum = kSmallestSum;
  for (int i = 0; i < used; ++i) weights[i] /= sum;
}

}  // namespace

void Router::ChooseForToken(float* logits, const float* selection_bias, const RoutingRule& rule,
                            ThreadMemory& memory, int32_t* experts, float* weights) {
  float* const scores = logits;
  if (rule.gating == ExpertGating::kSoftmax) {
    Softmax(logits, rule.experts, scores);
  } else if (rule.gating == ExpertGating::kSigmoid) {
    for (int i = 0; i < rule.experts; ++i) scores[i] = 1.0f / (1.0f + std::exp(-logits[i]));
  }

  memory.keys.resize(rule.experts);
  float* const keys = memory.keys.data();
  for (int i = 0; i < rule.experts; ++i) {
    keys[i] = scores[i] + (selection_bias == nullptr ? 0.0f : selection_bias[i]);
    if (std::isnan(keys[i])) keys[i] = kLowest;
  }

  const int group_size = rule.experts / rule.groups;
  memory.groups.resize(rule.groups);
  std::iota(memory.groups.begin(), memory.groups.end(), 0);
  if (rule.used_groups < rule.groups) {
    memory.group_scores.resize(rule.groups);
    for (int group = 0; group < rule.groups; ++group) {
      memory.group_scores[group] = SumOfTwoBest(keys + group * group_size, group_size);
    }
    SelectLargest(memory.group_scores.data(), rule.used_groups, memory.groups);
  }

  const int used_groups = std::min(rule.used_groups, rule.groups);
  memory.candidates.clear();
  for (int i = 0; i < used_groups; ++i) {
    for (int j = 0; j < group_size; ++j) {
      memory.candidates.push_back(memory.groups[i] * group_size + j);
    }
  }
  SelectLargest(keys, rule.used, memory.candidates);

  for (int i = 0; i < rule.used; ++i) {
    experts[i] = memory.candidates[i];
    weights[i] = scores[experts[i]];
  }
  if (rule.gating == ExpertGating::kSoftmaxOfChosen) Softmax(weights, rule.used, weights);
  if (rule.normalize) Normalize(weights, rule.used);
  for (int i = 0; i < rule.used; ++i) weights[i] *= rule.scale;
}

void Router::Choose(float* logits, size_t stride, const float* selection_bias,
                    const RoutingRule& rule, int n) {
  constexpr int kTokensPerTask = 8;
  chosen_.n = n;
  chosen_.used = rule.used;
  chosen_.experts.resize(static_cast<size_t>(n) * rule.used);
  chosen_.weights.resize(static_cast<size_t>(n) * rule.used);
  const size_t tasks = (n + kTokensPerTask - 1) / kTokensPerTask;
  pool_.ParallelFor(tasks, [&](size_t task, int thread) {
    const size_t begin = task * kTokensPerTask;
    const size_t end = std::min<size_t>(n, begin + kTokensPerTask);
    for (size_t token = begin; token < end; ++token) {
      ChooseForToken(logits + token * stride, selection_bias, rule, memory_[thread],
                     chosen_.experts.data() + token * rule.used,
                     chosen_.weights.data() + token * rule.used);
    }
  });
}

}  // namespace gguf_offload
