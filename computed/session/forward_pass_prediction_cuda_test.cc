// Experts that are fetched before the router has asked for them: results stay the same, to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/fixtures/golden_models.h"
#include "tests/modelgen/synthetic_model.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload {
namespace {

class ForwardPassPredictionCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  static std::unique_ptr<RunningModel> Load(const std::string& path, uint64_t expert_cache,
                                            uint64_t predict_experts) {
    auto model = RunningModel::Create(path, {.cuda = true,
                                             .activations = ActivationPrecision::kInt8,
                                             .expert_cache = expert_cache,
                                             .predict_experts = predict_experts});
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  // Bytes of all experts, and of the largest.
  static std::pair<uint64_t, uint64_t> ExpertBytes(const RunningModel& model) {
    uint64_t all = 0, largest = 0;
    for (const auto& group : model.tensors.groups) {
      uint64_t layer = 0;
      for (const ModelTensor& tensor : group) {
        const bool bank =
            tensor.id == kExpertGate || tensor.id == kExpertUp || tensor.id == kExpertDown;
        if (bank) layer += tensor.bytes;
      }
      all += layer;
      largest = std::max(largest, layer / model.architecture->shape().experts.routing.experts);
    }
    return {all, largest};
  }

  // Logits of a prompt's last token and of `kDecoded` tokens that follow one by one: the first as
  // it is, the second recorded, the others replayed.
  static std::vector<std::vector<float>> Steps(RunningModel& model, std::vector<int32_t> prompt) {
    SequenceRunner runner(model);
    std::vector<std::vector<float>> steps = {runner.Step(prompt, 1)};
    for (int i = 0; i < kDecoded; ++i) steps.push_back(runner.Step({(29 * i + 3) % 200}));
    return steps;
  }
  static constexpr int kDecoded = 6;

  static ExpertCounters Sum(RunningModel& model) {
    ExpertCounters sum;
    const auto layers = model.engine->expert_counters();
    EXPECT_TRUE(layers.ok()) << layers.status();
    for (const ExpertCounters& layer : *layers) {
      EXPECT_LE(layer.early_used, layer.early);
      EXPECT_LE(layer.early_used, layer.hits);
      EXPECT_EQ(layer.early > 0, layer.early_bytes > 0);
      sum.hits += layer.hits;
      sum.misses += layer.misses;
      sum.early += layer.early;
      sum.early_used += layer.early_used;
    }
    return sum;
  }
};

TEST_F(ForwardPassPredictionCudaTest, GoldenModelsGiveTheSameLogits) {
  uint64_t predicted = 0, used = 0;
  for (const GoldenModel& golden : GoldenModels()) {
    if (golden.dense) continue;
    SCOPED_TRACE(golden.model);
    const std::string path = kGoldenModelFolder + golden.model;
    auto whole = Load(path, UINT64_MAX, 0);
    ASSERT_NE(whole, nullptr);
    const auto expected = Steps(*whole, golden.tokens);
    const uint64_t banks = ExpertBytes(*whole).first;
    whole.reset();
    for (uint64_t most : {uint64_t{0}, UINT64_MAX}) {
      SCOPED_TRACE(most);
      auto model = Load(path, banks * 2 / 3, most);
      ASSERT_NE(model, nullptr);
      EXPECT_TRUE(Steps(*model, golden.tokens) == expected);
      const ExpertCounters sum = Sum(*model);
      EXPECT_GT(sum.misses, 0u);
      EXPECT_TRUE(most > 0 || sum.early == 0);
      predicted += sum.early;
      used += sum.early_used;
      std::printf("%-24s hits %lu, misses %lu, predicted %lu, of which used %lu\n",
                  golden.model.c_str(), sum.hits, sum.misses, sum.early, sum.early_used);
    }
  }
  EXPECT_GT(predicted, 0u);
  EXPECT_GT(used, 0u);
}

// Between the caps of one expert and of all, in steps of one sequence and of two, whose experts
// just find room.
TEST_F(ForwardPassPredictionCudaTest, TheCapHoldsForEveryLayerAndStep) {
  const std::string path = ::testing::TempDir() + "/prediction.gguf";
  auto plan = SyntheticModel::Plan(
      {.preset = "tiny-qwen3moe", .quantization = "Q4_K", .overrides = {.layers = 5}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  auto whole = Load(path, UINT64_MAX, 0);
  ASSERT_NE(whole, nullptr);
  const std::vector<int32_t> prompt = {1, 10};
  const auto expected = Steps(*whole, prompt);
  const auto [banks, one] = ExpertBytes(*whole);
  const RoutingRule routing = whole->architecture->shape().experts.routing;
  for (int cap : {1, 2, routing.experts}) {
    SCOPED_TRACE(cap);
    auto model = Load(path, banks * 2 / 3, cap * one);
    ASSERT_NE(model, nullptr);
    EXPECT_TRUE(Steps(*model, prompt) == expected);
    const auto layers = *model->engine->expert_counters();
    EXPECT_EQ(layers[0].early, 0u);  // nothing is ahead of it
    for (size_t layer = 1; layer < layers.size(); ++layer) {
      EXPECT_GE(layers[layer].slots, 2 * routing.used);
      EXPECT_GT(layers[layer].early, 0u);
      EXPECT_LE(layers[layer].early, uint64_t(std::min(cap, routing.used * 2) * (1 + kDecoded)));
      EXPECT_LE(layers[layer].early_bytes, layers[layer].early * one);
    }
  }
}

TEST_F(ForwardPassPredictionCudaTest, SaysWhyNothingIsPredicted) {
  const std::string path = ::testing::TempDir() + "/no-prediction.gguf";
  auto plan = SyntheticModel::Plan(
      {.preset = "tiny-qwen3moe", .quantization = "Q4_K", .overrides = {.layers = 3}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  auto whole = Load(path, UINT64_MAX, 0);
  ASSERT_NE(whole, nullptr);
  const uint64_t banks = ExpertBytes(*whole).first;
  const auto expected = Steps(*whole, {1, 10, 45});
  const std::tuple<uint64_t, uint64_t, std::string> cases[] = {
      {UINT64_MAX, UINT64_MAX, "they are not cached"},
      {0, UINT64_MAX, "share the same slots"},
      {banks / 2, 1, "less than the"},
  };
  for (const auto& [cache, most, why] : cases) {
    auto model = Load(path, cache, most);
    ASSERT_NE(model, nullptr);
    const std::vector<std::string> notes = model->engine->Fallbacks();
    ASSERT_EQ(notes.size(), 1u) << why;
    EXPECT_NE(notes[0].find(why), std::string::npos) << notes[0];
    EXPECT_TRUE(Steps(*model, {1, 10, 45}) == expected);
    EXPECT_EQ(Sum(*model).early, 0u);
  }
}

}  // namespace
}  // namespace gguf_offload
