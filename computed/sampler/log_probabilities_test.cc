#include "computed/sampler/log_probabilities.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "computed/sampler/argmax.h"

namespace gguf_offload {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(LogProbabilitiesTest, LogSoftmaxOfTheChosenAndTheTop) {
  // Probabilities 1/8, 1/2, 1/8, 1/4.
  const std::vector<float> logits = {0.0f, std::log(4.0f), 0.0f, std::log(2.0f)};
  const StepLogProbabilities result = LogProbabilities(logits, 3, 3);
  EXPECT_EQ(result.chosen.token, 3);
  EXPECT_NEAR(result.chosen.log_probability, std::log(0.25), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_NEAR(result.top[0].log_probability, std::log(0.5), 1e-6);
  EXPECT_EQ(result.top[1].token, 3);
  EXPECT_EQ(result.top[2].token, 0);
  EXPECT_NEAR(result.top[2].log_probability, std::log(0.125), 1e-6);
}

TEST(LogProbabilitiesTest, IsStableForLargeLogits) {
  const StepLogProbabilities result =
      LogProbabilities(std::vector<float>{30000.0f, 29999.0f}, 1, 0);
  EXPECT_NEAR(result.chosen.log_probability, -1.0 - std::log1p(std::exp(-1.0)), 1e-6);
  EXPECT_TRUE(result.top.empty());
}

TEST(LogProbabilitiesTest, OddInputs) {
  EXPECT_EQ(LogProbabilities({}, 0, 5).chosen.log_probability, -kInf);
  EXPECT_TRUE(LogProbabilities({}, 0, 5).top.empty());
  const std::vector<float> logits = {kNaN, 1.0f, -kInf};
  EXPECT_EQ(LogProbabilities(logits, -1, -5).chosen.log_probability, -kInf);
  EXPECT_EQ(LogProbabilities(logits, 3, 0).chosen.log_probability, -kInf);
  EXPECT_EQ(LogProbabilities(logits, 0, 0).chosen.log_probability, -kInf);
  EXPECT_EQ(LogProbabilities(logits, 1, 0).chosen.log_probability, 0.0f);
  const StepLogProbabilities all = LogProbabilities(logits, 1, 1000);
  ASSERT_EQ(all.top.size(), 3u);
  EXPECT_EQ(all.top[0].token, 1);
  EXPECT_EQ(all.top[1].token, 0);
  EXPECT_EQ(all.top[2].token, 2);
  EXPECT_NEAR(LogProbabilities(std::vector<float>{kInf, kInf, 0.0f}, 0, 0).chosen.log_probability,
              std::log(0.5), 1e-6);
  EXPECT_EQ(LogProbabilities(std::vector<float>{kNaN, -kInf}, 0, 1).chosen.log_probability, -kInf);
}

TEST(CanChooseByTest, WantsNumbers) {
  std::vector<float> logits(70, -1.0f);
  EXPECT_TRUE(CanChooseBy(logits));
  for (size_t i = 0; i < logits.size(); ++i) {
    for (const float bad : {kNaN, kInf}) {
      std::vector<float> damaged = logits;
      damaged[i] = bad;
      EXPECT_FALSE(CanChooseBy(damaged)) << i;
    }
    std::vector<float> masked(logits.size(), -kInf);
    EXPECT_FALSE(CanChooseBy(masked));
    masked[i] = -3e38f;
    EXPECT_TRUE(CanChooseBy(masked));
  }
  EXPECT_FALSE(CanChooseBy({}));
}

TEST(ArgMaxTest, IgnoresNaN) {
  EXPECT_EQ(ArgMax(std::vector<float>{kNaN, -2.0f, kNaN, -1.0f}), 3);
  EXPECT_EQ(ArgMax(std::vector<float>{kNaN}), 0);
  EXPECT_EQ(ArgMax({}), -1);
  std::vector<float> logits(100, kNaN);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = 1.0f;
    EXPECT_EQ(ArgMax(logits), static_cast<int32_t>(i));
    logits[i] = kNaN;
  }
}

}  // namespace
}  // namespace gguf_offload
