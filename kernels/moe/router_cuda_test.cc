#include "kernels/moe/router_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "kernels/moe/router.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

class RouterCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

std::vector<float> RandomValues(size_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<RoutingRule> Rules() {
  using enum ExpertGating;
  return {
      {.experts = 60, .used = 4, .gating = kSoftmax},
      {.experts = 128, .used = 8, .gating = kSoftmax, .normalize = true},
      {.experts = 32, .used = 4, .gating = kSoftmaxOfChosen},
      {.experts = 160, .used = 8, .gating = kSigmoid, .normalize = true, .scale = 2.5f},
      {.experts = 256,
       .used = 8,
       .gating = kSigmoid,
       .normalize = true,
       .scale = 2.5f,
       .groups = 8,
       .used_groups = 4},
      {.experts = 12, .used = 5, .groups = 4, .used_groups = 4},
      {.experts = 6, .used = 2, .groups = 6, .used_groups = 3},
      {.experts = 12, .used = 6, .groups = 4, .used_groups = 2},
      {.experts = 7, .used = 7, .gating = kSoftmaxOfChosen},
      {.experts = 1, .used = 1, .normalize = true},
      {.experts = 300, .used = 40, .gating = kSoftmax, .groups = 100, .used_groups = 50},
      {.experts = 700, .used = 10, .gating = kSigmoid},
  };
}

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice Choose(const std::vector<float>& logits, int64_t stride, const std::vector<float>& bias,
              const std::vector<int32_t>& positions, const RoutingRule& rule, int rows) {
  DeviceArray<float> device_logits(logits), device_bias(bias), weights(rows * rule.used);
  DeviceArray<int32_t> device_positions(positions), experts(rows * rule.used);
  ChooseExperts({device_logits.data(), stride, bias.empty() ? nullptr : device_bias.data(),
                 positions.empty() ? nullptr : device_positions.data(), rule},
                {experts.data(), weights.data(), rows, rule.used}, nullptr);
  CheckCuda(cudaGetLastError());
  return {experts.ToHost(), weights.ToHost()};
}

TEST_F(RouterCudaTest, AgreesWithTheCpu) {
  constexpr int kRows = 37;
  ThreadPool pool(2);
  Router router(pool);
  for (const RoutingRule& rule : Rules()) {
    const int64_t stride = rule.experts + 3;
    const std::vector<float> logits = RandomValues(kRows * stride, 2.0f, rule.experts);
    for (const bool with_bias : {false, true}) {
      SCOPED_TRACE(rule.experts);
      const std::vector<float> bias =
          with_bias ? RandomValues(rule.experts, 0.3f, 8) : std::vector<float>();
      std::vector<float> scratch = logits;
      router.Choose(scratch.data(), stride, with_bias ? bias.data() : nullptr, rule, kRows);
      const Choice choice = Choose(logits, stride, bias, {}, rule, kRows);
      EXPECT_EQ(choice.experts, router.chosen().experts);
      for (size_t i = 0; i < choice.weights.size(); ++i) {
        const float expected = router.chosen().weights[i];
        ASSERT_LE(std::abs(choice.weights[i] - expected), 2e-6f * expected + 1e-7f) << i;
      }
    }
  }
}

TEST_F(RouterCudaTest, RowsWithoutATokenGetNoExperts) {
  const RoutingRule rule = {.experts = 16, .used = 3};
  const std::vector<float> logits = RandomValues(4 * 16, 1.0f, 1);
  const Choice choice = Choose(logits, 16, {}, {5, -1, 0, -1}, rule, 4);
  const Choice all = Choose(logits, 16, {}, {}, rule, 4);
  for (int row = 0; row < 4; ++row) {
    for (int i = 3 * row; i < 3 * row + 3; ++i) {
      EXPECT_EQ(choice.experts[i], row % 2 == 0 ? all.experts[i] : -1);
      EXPECT_EQ(choice.weights[i], row % 2 == 0 ? all.weights[i] : 0.0f);
    }
  }
}

TEST_F(RouterCudaTest, OfEqualsTheFirst) {
  const Choice choice = Choose({0, 0.0f, -0.0f, 0, 1, 0, 1, 1}, 8, {}, {},
                               {.experts = 8, .used = 5, .gating = ExpertGating::kSigmoid}, 1);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{4, 6, 7, 0, 1}));
}

// Whatever a model's weights make of the logits, the chosen ids are different and in range.
TEST_F(RouterCudaTest, NonFiniteLogitsGiveValidExperts) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const float values[] = {kNan, kInfinity, -kInfinity, 0.0f, 3e38f, -3e38f, 1.0f};
  std::mt19937 random(3);
  for (const RoutingRule& rule : Rules()) {
    constexpr int kRows = 20;
    const int n = rule.experts;
    std::vector<float> logits(kRows * n), bias(n);
    for (int i = 0; i < kRows * n; ++i) {
      logits[i] = i < n ? kNan : i < 2 * n ? -kInfinity : values[random() % 7];
    }
    for (float& value : bias) value = values[random() % 7];
    const Choice choice = Choose(logits, n, bias, {}, rule, kRows);
    for (int row = 0; row < kRows; ++row) {
      const auto first = choice.experts.begin() + row * rule.used;
      const std::set<int32_t> experts(first, first + rule.used);
      EXPECT_EQ(experts.size(), static_cast<size_t>(rule.used));
      EXPECT_GE(*experts.begin(), 0);
      EXPECT_LT(*experts.rbegin(), n);
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
