// The DeepSeek architecture as a whole, in both forms of its files: streamed layers, budgets, and
// sequences of different lengths in one step. What its logits must be is in forward_pass_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "computed/session/forward_pass.h"
#include "tests/fixtures/golden_models.h"
#include "tests/modelgen/synthetic_model.h"

namespace gguf_offload {
namespace {

// Split projections, latent queries, sigmoid routing in groups; or combined projections, direct
// queries, softmax routing without groups.
class DeepSeek2Test : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "/" + GetParam() + ".gguf";
    auto plan = SyntheticModel::Plan(
        {.preset = GetParam(), .quantization = "Q4_K", .overrides = {.layers = kLayers}});
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_TRUE(plan->Write(path_, 1).ok());
    bytes_ = plan->Bytes().tensors;
  }
  std::unique_ptr<RunningModel> Load(RunningModel::Options options) {
    auto model = RunningModel::Create(path_, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  static constexpr int kLayers = 9;
  std::string path_;
  uint64_t bytes_ = 0;
};

std::vector<int32_t> Prompt(int tokens) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back((7 + 31 * i) % 512);
  return prompt;
}

TEST_P(DeepSeek2Test, StreamedLayersGiveTheSameLogitsWithinTheBudget) {
  for (ActivationPrecision activations :
       {ActivationPrecision::kFloat32, ActivationPrecision::kInt8}) {
    auto shared = Load({.activations = activations});
    ASSERT_NE(shared, nullptr);
    SequenceRunner expected(*shared);
    const std::vector<float> expected_prompt = expected.Step(Prompt(40));
    const std::vector<float> expected_next = expected.Step({8});
    EXPECT_TRUE(std::all_of(expected_next.begin(), expected_next.end(),
                            [](float logit) { return std::abs(logit) < 1e3f; }));

    bool streamed_some = false, streamed_all = false, refused = false;
    for (uint64_t budget = bytes_ + (1 << 20); budget > (32 << 10) && !refused;
         budget -= budget / 8) {
      SCOPED_TRACE(budget);
      auto model = RunningModel::Create(path_, {.mode = FileWeightSource::Mode::kStreamed,
                                                .activations = activations,
                                                .memory_budget = budget});
      if (!model.ok()) {
        EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
        refused = true;
        continue;
      }
      EXPECT_LE((*model)->engine->loader().memory_bytes(), budget + 64 * 200);
      const Placement& placement = (*model)->engine->placement();
      const auto streamed =
          std::count(placement.streamed_groups.begin(), placement.streamed_groups.end(), true);
      streamed_some |= streamed > 0 && streamed < kLayers;
      // All that are large; the first one, which has no experts, may stay.
      streamed_all |= streamed >= kLayers - 1;
      SequenceRunner runner(**model);
      EXPECT_TRUE(runner.Step(Prompt(40)) == expected_prompt);
      EXPECT_TRUE(runner.Step({8}) == expected_next);
    }
    EXPECT_TRUE(streamed_some);
    EXPECT_TRUE(streamed_all);
    EXPECT_TRUE(refused);
  }
}

// Several pages of the cache, beside another sequence, against one token at a time.
TEST_P(DeepSeek2Test, SequencesDoNotInfluenceEachOther) {
  const std::vector<int32_t> prompt = Prompt(45);
  auto alone = Load({.activations = ActivationPrecision::kInt8, .threads = 1});
  ASSERT_NE(alone, nullptr);
  SequenceRunner one_by_one(*alone);
  std::vector<float> expected;
  for (int32_t token : prompt) expected = one_by_one.Step({token});

  auto model = Load({.activations = ActivationPrecision::kInt8, .threads = 3});
  ASSERT_NE(model, nullptr);
  StepBatch batch;
  for (int i = 0; i < 4; ++i) {
    batch.tokens.push_back(100 + i);
    batch.positions.push_back(i);
  }
  batch.tokens.insert(batch.tokens.end(), prompt.begin(), prompt.end());
  for (int i = 0; i < static_cast<int>(prompt.size()); ++i) batch.positions.push_back(i);
  batch.sequences.push_back({0, 4, 0, {5}});
  batch.sequences.push_back({4, static_cast<int>(prompt.size()), 0, {9, 2}});
  batch.logit_rows = {batch.rows() - 1};
  batch.logit_values = {true};
  std::vector<float> logits;
  const absl::Status status = model->forward->Run(
      batch, absl::InfiniteFuture(),
      [&](int, const RowLogits& row) { logits.assign(row.values.begin(), row.values.end()); });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(logits == expected);
}

// 256 latent elements and 32 rotated ones a position and layer, and no values beside them.
TEST_P(DeepSeek2Test, TheCacheHoldsOneLatentVectorAPosition) {
  auto model = Load({.activations = ActivationPrecision::kInt8, .kv_pages = 10});
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->engine->backend().kv_cache_bytes(), uint64_t{kLayers} * 10 * 32 * 288 * 2);
}

INSTANTIATE_TEST_SUITE_P(Forms, DeepSeek2Test,
                         testing::Values("tiny-deepseek2", "tiny-deepseek2-lite"),
                         [](const auto& info) {
                           return std::string(info.param).ends_with("lite") ? "Combined" : "Split";
                         });

}  // namespace
}  // namespace gguf_offload
