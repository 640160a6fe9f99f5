#include "kernels/moe/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace gguf_offload {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Choice {
  std::vector<int32_t> experts;
  std::vector<double> weights;
};

// The rule as routing.h states it, in float64.
Choice Oracle(const std::vector<float>& logits, const std::vector<float>& bias,
              const RoutingRule& rule) {
  const int n = rule.experts;
  std::vector<double> score(logits.begin(), logits.end());
  const double largest = *std::max_element(score.begin(), score.end());
  if (rule.gating == ExpertGating::kSoftmax) {
    double sum = 0;
    for (double s : score) sum += std::exp(s - largest);
    for (double& s : score) s = std::exp(s - largest) / sum;
  } else if (rule.gating == ExpertGating::kSigmoid) {
    for (double& s : score) s = 1 / (1 + std::exp(-s));
  }
  std::vector<double> key = score;
  for (int i = 0; i < n && !bias.empty(); ++i) key[i] += bias[i];

  const int size = n / rule.groups;
  std::vector<std::pair<double, int>> groups;
  for (int group = 0; group < rule.groups; ++group) {
    std::vector<double> keys(key.begin() + group * size, key.begin() + (group + 1) * size);
    std::sort(keys.rbegin(), keys.rend());
    groups.push_back({-(keys[0] + (size > 1 ? keys[1] : 0)), group});
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, int>> candidates;
  for (int i = 0; i < rule.used_groups; ++i) {
    for (int j = 0; j < size; ++j) {
      const int expert = groups[i].second * size + j;
      candidates.push_back({-key[expert], expert});
    }
  }
  std::sort(candidates.begin(), candidates.end());

  Choice choice;
  for (int i = 0; i < rule.used; ++i) {
    const double s = score[candidates[i].second];
    choice.experts.push_back(candidates[i].second);
    choice.weights.push_back(rule.gating == ExpertGating::kSoftmaxOfChosen ? std::exp(s - largest)
                                                                           : s);
  }
  const double sum = std::accumulate(choice.weights.begin(), choice.weights.end(), 0.0);
  const bool divide = rule.normalize || rule.gating == ExpertGating::kSoftmaxOfChosen;
  for (double& weight : choice.weights) weight *= rule.scale / (divide ? sum : 1);
  return choice;
}

struct Case {
  const char* what;
  RoutingRule rule;
  bool bias = false;
};

std::vector<Case> Cases() {
  using enum ExpertGating;
  return {
      {"Qwen2-MoE", {.experts = 60, .used = 4, .gating = kSoftmax}},
      {"Qwen3-30B-A3B", {.experts = 128, .used = 8, .gating = kSoftmax, .normalize = true}},
      {"gpt-oss", {.experts = 32, .used = 4, .gating = kSoftmaxOfChosen}},
      {"GLM-4.5",
       {.experts = 160, .used = 8, .gating = kSigmoid, .normalize = true, .scale = 2.5f},
       true},
      {"MiniMax-M2", {.experts = 256, .used = 8, .gating = kSigmoid, .normalize = true}, true},
      {"DeepSeek-V3",
       {.experts = 256,
        .used = 8,
        .gating = kSigmoid,
        .normalize = true,
        .scale = 2.5f,
        .groups = 8,
        .used_groups = 4},
       true},
      {"all groups", {.experts = 12, .used = 5, .groups = 4, .used_groups = 4}},
      {"groups of one", {.experts = 6, .used = 2, .groups = 6, .used_groups = 3}},
      {"all of the chosen groups", {.experts = 12, .used = 6, .groups = 4, .used_groups = 2}},
      {"all experts", {.experts = 7, .used = 7, .gating = kSoftmaxOfChosen}},
      {"one expert", {.experts = 1, .used = 1, .normalize = true}},
  };
}

std::vector<float> RandomValues(size_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(RouterTest, ChoosesAsTheRuleSays) {
  constexpr int kTokens = 37, kGap = 3;
  ThreadPool pool(3);
  Router router(pool);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.what);
    const int stride = c.rule.experts + kGap;
    const std::vector<float> logits = RandomValues(kTokens * stride, 2.0f, 7);
    const std::vector<float> bias =
        c.bias ? RandomValues(c.rule.experts, 0.3f, 8) : std::vector<float>();
    std::vector<float> scratch = logits;
    router.Choose(scratch.data(), stride, c.bias ? bias.data() : nullptr, c.rule, kTokens);
    const ChosenExperts& chosen = router.chosen();
    ASSERT_EQ(chosen.n, kTokens);
    ASSERT_EQ(chosen.used, c.rule.used);
    for (int token = 0; token < kTokens; ++token) {
      const auto row = logits.begin() + token * stride;
      const Choice expected = Oracle({row, row + c.rule.experts}, bias, c.rule);
      for (int i = 0; i < c.rule.used; ++i) {
        EXPECT_EQ(chosen.experts[token * c.rule.used + i], expected.experts[i]) << token;
        EXPECT_NEAR(chosen.weights[token * c.rule.used + i], expected.weights[i],
                    1e-6 * expected.weights[i] + 1e-7)
            << token;
      }
    }
  }
}

TEST(RouterTest, ATokenDoesNotDependOnTheOthers) {
  constexpr int kTokens = 65;
  ThreadPool one(1), four(4);
  Router alone(one), together(four);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.what);
    const int n = c.rule.experts, used = c.rule.used;
    const std::vector<float> logits = RandomValues(kTokens * n, 1.0f, 9);
    const std::vector<float> bias = RandomValues(n, 0.1f, 10);
    std::vector<float> scratch = logits;
    together.Choose(scratch.data(), n, bias.data(), c.rule, kTokens);
    for (int token = 0; token < kTokens; ++token) {
      std::vector<float> row(logits.begin() + token * n, logits.begin() + (token + 1) * n);
      alone.Choose(row.data(), n, bias.data(), c.rule, 1);
      for (int i = 0; i < used; ++i) {
        EXPECT_EQ(alone.chosen().experts[i], together.chosen().experts[token * used + i]);
        EXPECT_EQ(alone.chosen().weights[i], together.chosen().weights[token * used + i]);
      }
    }
  }
}

TEST(RouterTest, TheBiasDecidesButDoesNotWeigh) {
  ThreadPool pool(1);
  Router router(pool);
  std::vector<float> logits = {0, 0, 0, 0};
  const std::vector<float> bias = {0, 0, 5, 0};
  router.Choose(logits.data(), 4, bias.data(),
                {.experts = 4, .used = 2, .gating = ExpertGating::kSigmoid}, 1);
  // Of equals, the first.
  EXPECT_EQ(router.chosen().experts, (std::vector<int32_t>{2, 0}));
  EXPECT_EQ(router.chosen().weights, (std::vector<float>{0.5f, 0.5f}));
}

TEST(RouterTest, WeightsThatAreAllZeroStayFinite) {
  ThreadPool pool(1);
  Router router(pool);
  std::vector<float> logits = {-200, -200, -200};
  router.Choose(logits.data(), 3, nullptr,
                {.experts = 3, .used = 2, .gating = ExpertGating::kSigmoid, .normalize = true}, 1);
  EXPECT_EQ(router.chosen().weights, (std::vector<float>{0.0f, 0.0f}));
}

// Whatever a model's weights make of the logits, the chosen ids are different and in range.
TEST(RouterTest, NonFiniteLogitsGiveValidExperts) {
  ThreadPool pool(2);
  Router router(pool);
  std::mt19937 random(3);
  const float values[] = {kNan, kInfinity, -kInfinity, 0.0f, 3e38f, -3e38f, 1.0f};
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.what);
    constexpr int kTokens = 50;
    const int n = c.rule.experts;
    std::vector<float> logits(kTokens * n), bias(n);
    for (int i = 0; i < kTokens * n; ++i) {
      logits[i] = i < n ? kNan : i < 2 * n ? -kInfinity : values[random() % 7];
    }
    for (float& value : bias) value = values[random() % 7];
    for (const float* selection_bias : std::vector<const float*>{nullptr, bias.data()}) {
      std::vector<float> scratch = logits;
      router.Choose(scratch.data(), n, selection_bias, c.rule, kTokens);
      for (int token = 0; token < kTokens; ++token) {
        const auto first = router.chosen().experts.begin() + token * c.rule.used;
        const std::set<int32_t> experts(first, first + c.rule.used);
        EXPECT_EQ(experts.size(), static_cast<size_t>(c.rule.used));
        EXPECT_GE(*experts.begin(), 0);
        EXPECT_LT(*experts.rbegin(), n);
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload
