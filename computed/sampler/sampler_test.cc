#include "computed/sampler/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "computed/sampler/portable_exp.h"

namespace gguf_offload {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Sampler CreateOrDie(const SamplingOptions& options) {
  absl::StatusOr<Sampler> sampler = Sampler::Create(options);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

int32_t SampleCopy(Sampler* sampler, std::vector<float> logits) { return sampler->Sample(logits); }

// The chain as llama.cpp documents it, the slow way: probability of each token.
std::vector<double> ExactProbabilities(const std::vector<float>& logits,
                                       const SamplingOptions& options) {
  std::vector<int> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < order.size()) {
    order.resize(options.top_k);
  }
  auto softmax = [&](double temperature) {
    std::vector<double> p;
    double total = 0;
    for (int i : order) p.push_back(std::exp((logits[i] - logits[order[0]]) / temperature));
    for (double x : p) total += x;
    for (double& x : p) x /= total;
    return p;
  };
  if (options.top_p < 1.0f) {
    const std::vector<double> p = softmax(1.0);
    double sum = 0;
    size_t kept = 0;
    while (kept < p.size()) {
      sum += p[kept++];
      if (sum >= options.top_p) break;
    }
    order.resize(kept);
  }
  if (options.min_p > 0.0f) {
    const std::vector<double> p = softmax(1.0);
    size_t kept = 0;
    while (kept < p.size() && p[kept] >= options.min_p * p[0]) ++kept;
    order.resize(kept);
  }
  const std::vector<double> p = softmax(options.temperature);
  std::vector<double> result(logits.size(), 0.0);
  for (size_t i = 0; i < order.size(); ++i) result[order[i]] = p[i];
  return result;
}

// Draws and checks each token's count against its binomial distribution, five deviations wide.
void ExpectDistribution(const std::vector<float>& logits, const SamplingOptions& options,
                        int draws = 100000) {
  const std::vector<double> exact = ExactProbabilities(logits, options);
  Sampler sampler = CreateOrDie(options);
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < draws; ++i) ++counts[SampleCopy(&sampler, logits)];
  for (size_t i = 0; i < logits.size(); ++i) {
    if (exact[i] == 0.0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    const double deviation = std::sqrt(draws * exact[i] * (1 - exact[i]));
    EXPECT_NEAR(counts[i], draws * exact[i], 5 * deviation + 1) << i;
  }
}

TEST(PortableExpTest, AgreesWithTheLibrary) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(-700.0, 0.0);
  for (int i = 0; i < 200000; ++i) {
    const double x = i % 2 == 0 ? uniform(random) : uniform(random) / 1000;
    EXPECT_NEAR(PortableExp(x) / std::exp(x), 1.0, 1e-14) << x;
  }
  EXPECT_EQ(PortableExp(0.0), 1.0);
  EXPECT_EQ(PortableExp(-701.0), 0.0);
  EXPECT_EQ(PortableExp(-std::numeric_limits<double>::infinity()), 0.0);
}

TEST(SamplerTest, RefusesOptionsOutOfRange) {
  auto expect_refused = [](auto set, const char* name) {
    SamplingOptions options;
    set(&options);
    const absl::StatusOr<Sampler> sampler = Sampler::Create(options);
    ASSERT_FALSE(sampler.ok()) << name;
    EXPECT_EQ(sampler.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(sampler.status().message().find(name), absl::string_view::npos);
  };
  for (float bad : {-0.1f, kNaN, kInf, -kInf}) {
    expect_refused([&](SamplingOptions* o) { o->temperature = bad; }, "temperature");
    expect_refused([&](SamplingOptions* o) { o->top_p = bad; }, "top_p");
    expect_refused([&](SamplingOptions* o) { o->min_p = bad; }, "min_p");
    expect_refused([&](SamplingOptions* o) { o->repetition_penalty = bad; }, "repetition_penalty");
  }
  for (float bad : {kNaN, kInf, -kInf}) {
    expect_refused([&](SamplingOptions* o) { o->frequency_penalty = bad; }, "frequency_penalty");
    expect_refused([&](SamplingOptions* o) { o->presence_penalty = bad; }, "presence_penalty");
  }
  expect_refused([](SamplingOptions* o) { o->repetition_penalty = 0; }, "repetition_penalty");
  expect_refused([](SamplingOptions* o) { o->top_p = 1.1f; }, "top_p");
  expect_refused([](SamplingOptions* o) { o->min_p = 1.1f; }, "min_p");
  expect_refused([](SamplingOptions* o) { o->top_k = -1; }, "top_k");
  expect_refused([](SamplingOptions* o) { o->penalty_window = -1; }, "penalty_window");
  expect_refused([](SamplingOptions* o) { o->penalty_window = (1 << 20) + 1; }, "penalty_window");
}

TEST(SamplerTest, GreedyTakesTheFirstLargest) {
  Sampler greedy = CreateOrDie({.temperature = 0.0f});
  EXPECT_EQ(SampleCopy(&greedy, {1, 3, 2, 3}), 1);
  EXPECT_EQ(SampleCopy(&greedy, {-5}), 0);
  EXPECT_EQ(SampleCopy(&greedy, {}), -1);
  std::mt19937 random(3);
  for (size_t size : {1, 31, 32, 33, 63, 64, 65, 1000, 150001}) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = static_cast<float>(random() % 1000);
    const auto first_largest = std::max_element(logits.begin(), logits.end());
    EXPECT_EQ(SampleCopy(&greedy, logits), first_largest - logits.begin()) << size;
  }
}

TEST(SamplerTest, NaNAndInfinityDoNoHarm) {
  const std::vector<SamplingOptions> all_options = {
      {.temperature = 0.0f},
      {.temperature = 1.0f},
      {.temperature = 1.0f, .top_k = 2},
      {.temperature = 0.5f, .top_p = 0.9f},
      {.temperature = 2.0f, .min_p = 0.1f},
      {.temperature = 1e-45f, .top_k = 3, .top_p = 0.5f, .min_p = 0.5f},
      {.temperature = 100.0f, .repetition_penalty = 1.5f, .frequency_penalty = 1.0f}};
  for (const SamplingOptions& options : all_options) {
    Sampler sampler = CreateOrDie(options);
    for (int32_t token : {0, 1, -7, 1000000}) sampler.Accept(token);
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(SampleCopy(&sampler, {kNaN, kNaN, 1.0f, kNaN}), 2);
      EXPECT_EQ(SampleCopy(&sampler, {-kInf, -kInf, 1.0f, -kInf}), 2);
      EXPECT_EQ(SampleCopy(&sampler, {0.0f, 1.0f, kInf, kNaN}), 2);
      EXPECT_EQ(SampleCopy(&sampler, {kNaN, kNaN, kNaN}), 0);
      EXPECT_EQ(SampleCopy(&sampler, {-kInf, -kInf, -kInf}), 0);
      const int32_t token = SampleCopy(&sampler, {kNaN, -1e38f, kInf, 3e38f, kInf, -kInf});
      EXPECT_TRUE(token == 2 || token == 4) << token;
      EXPECT_EQ(SampleCopy(&sampler, {}), -1);
    }
  }
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {1.0f, 2.0f, 0.5f, -1.0f, 3.0f, 2.9f};
  for (uint64_t seed : {0, 1, 12345}) {
    ExpectDistribution(logits, {.seed = seed});
    ExpectDistribution(logits, {.temperature = 0.5f, .seed = seed});
    ExpectDistribution(logits, {.temperature = 3.0f, .seed = seed});
    ExpectDistribution(logits, {.top_k = 3, .seed = seed});
    ExpectDistribution(logits, {.top_p = 0.7f, .seed = seed});
    ExpectDistribution(logits, {.min_p = 0.1f, .seed = seed});
    // The filters see temperature 1 whatever the temperature of the draw.
    ExpectDistribution(
        logits, {.temperature = 4.0f, .top_k = 5, .top_p = 0.9f, .min_p = 0.15f, .seed = seed});
  }
}

TEST(SamplerTest, TopPOfNothingKeepsTheBest) {
  ExpectDistribution({1.0f, 5.0f, 2.0f}, {.top_p = 0.0f}, 1000);
  ExpectDistribution({1.0f, 5.0f, 2.0f}, {.min_p = 1.0f}, 1000);
}

TEST(SamplerTest, LargeVocabulariesKeepTheRightTokens) {
  std::mt19937 random(9);
  std::vector<float> logits(150000);
  for (float& logit : logits) logit = static_cast<float>(random() % 512) / 64;  // many ties
  for (const SamplingOptions& options :
       {SamplingOptions{.top_k = 40}, SamplingOptions{.top_k = 5000},
        SamplingOptions{.temperature = 5.0f, .top_p = 0.001f}, SamplingOptions{.top_p = 0.9f},
        SamplingOptions{.top_k = 1000, .top_p = 0.5f, .min_p = 0.3f},
        SamplingOptions{.min_p = 0.5f}}) {
    const std::vector<double> exact = ExactProbabilities(logits, options);
    const int possible = std::count_if(exact.begin(), exact.end(), [](double p) { return p > 0; });
    Sampler sampler = CreateOrDie(options);
    std::set<int32_t> seen;
    for (int i = 0; i < 30; ++i) {
      const int32_t token = SampleCopy(&sampler, logits);
      EXPECT_GT(exact[token], 0.0);
      seen.insert(token);
    }
    EXPECT_GT(possible, 10);
    EXPECT_GT(seen.size(), 5u);
  }
}

TEST(SamplerTest, TheSeedDecidesEverything) {
  const std::vector<float> logits(1000, 0.0f);
  auto draw = [&](uint64_t seed) {
    Sampler sampler = CreateOrDie({.seed = seed});
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(SampleCopy(&sampler, logits));
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
  EXPECT_NE(draw(0), draw(uint64_t{1} << 63));
  // Neighbouring seeds have nothing in common.
  int equal = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<int32_t> a = draw(seed);
    const std::vector<int32_t> b = draw(seed + 1);
    for (size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
  }
  EXPECT_NEAR(equal, 10, 16);  // 10000 pairs, each equal with probability 1/1000
}

TEST(SamplerTest, PenaltiesAreAppliedAsDefined) {
  Sampler sampler = CreateOrDie({.temperature = 0.0f,
                                 .repetition_penalty = 2.0f,
                                 .frequency_penalty = 0.25f,
                                 .presence_penalty = 0.5f,
                                 .penalty_window = 4});
  for (int32_t token : {3, 0, 1, 1, 2}) sampler.Accept(token);  // 3 has left the window
  std::vector<float> logits = {4.0f, 3.0f, -1.0f, 2.0f, 1.0f};
  EXPECT_EQ(sampler.Sample(logits), 3);
  // 4 / 2 - 0.25 - 0.5; 3 / 2 - 2 * 0.25 - 0.5; -1 * 2 - 0.25 - 0.5; untouched.
  EXPECT_EQ(logits, std::vector<float>({1.25f, 0.5f, -2.75f, 2.0f, 1.0f}));
  sampler.Accept(4);  // now 1 1 2 4
  logits = {4.0f, 3.0f, -1.0f, 2.0f, 1.0f};
  EXPECT_EQ(sampler.Sample(logits), 0);
  EXPECT_EQ(logits, std::vector<float>({4.0f, 0.5f, -2.75f, 2.0f, -0.25f}));
}

TEST(SamplerTest, AWindowOfZeroMeansNoPenalties) {
  Sampler sampler =
      CreateOrDie({.temperature = 0.0f, .presence_penalty = 100.0f, .penalty_window = 0});
  sampler.Accept(1);
  EXPECT_EQ(SampleCopy(&sampler, {0.0f, 1.0f}), 1);
}

TEST(TokenHistoryTest, CountsTheWindow) {
  std::mt19937 random(2);
  for (size_t window : {1, 2, 7, 64}) {
    TokenHistory history(window);
    std::vector<int32_t> all;
    for (int i = 0; i < 300; ++i) {
      all.push_back(static_cast<int32_t>(random() % 5));
      history.Add(all.back());
      std::map<int32_t, int> expected;
      for (size_t k = all.size() - std::min(all.size(), window); k < all.size(); ++k)
        ++expected[all[k]];
      EXPECT_EQ((std::map<int32_t, int>(history.counts().begin(), history.counts().end())),
                expected);
    }
  }
}

}  // namespace
}  // namespace gguf_offload
