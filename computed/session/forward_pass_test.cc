#include "computed/session/forward_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "computed/placement/host_expert_plan.h"
#include "tests/fixtures/golden_models.h"
#include "tests/modelgen/synthetic_model.h"

namespace gguf_offload {
namespace {

std::unique_ptr<RunningModel> Load(const std::string& name, RunningModel::Options options) {
  auto model = RunningModel::Create(kGoldenModelFolder + name, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The greedy continuation is compared where activations are exact: with 8-bit ones these random
// models, whose best tokens are often within a percent of each other, may go other ways.
//
// Models with experts are judged by the median row where activations are not exact: a token may go
// to another expert when two are about as good, and then all of its row is different.
void CheckGolden(ActivationPrecision activations, double bound) {
  const std::vector<GoldenModel> goldens = GoldenModels();
  ASSERT_EQ(goldens.size(), 14u);
  const bool exact = activations == ActivationPrecision::kFloat32;
  for (const GoldenModel& golden : goldens) {
    SCOPED_TRACE(golden.model);
    auto model = Load(golden.model, {.activations = activations});
    ASSERT_NE(model, nullptr);
    SequenceRunner runner(*model);
    const std::vector<float> logits = runner.Step(golden.tokens);
    const double nmse = exact || golden.dense
                            ? Nmse(logits, golden.logits)
                            : MedianRowNmse(logits, golden.logits, golden.columns);
    // Written so that NaN fails.
    EXPECT_TRUE(nmse <= bound) << nmse;
    std::printf("%-24s nmse %.3g\n", golden.model.c_str(), nmse);
    if (exact && golden.greedy_min_margin > 1e-3) {
      EXPECT_EQ(Greedy(runner, logits, golden.columns, golden.greedy.size()), golden.greedy);
    }
  }
}

TEST(ForwardPassTest, GoldenModelsWithFloat32Activations) {
  CheckGolden(ActivationPrecision::kFloat32, 1e-6);
}

TEST(ForwardPassTest, GoldenModelsWithInt8Activations) {
  CheckGolden(ActivationPrecision::kInt8, 5e-3);
}

TEST(ForwardPassTest, ResultsDoNotDependOnPiecesThreadsOrTransport) {
  for (const GoldenModel& golden : GoldenModels()) {
    SCOPED_TRACE(golden.model);
    for (ActivationPrecision activations :
         {ActivationPrecision::kFloat32, ActivationPrecision::kInt8}) {
      auto whole = Load(golden.model, {.activations = activations, .threads = 1});
      ASSERT_NE(whole, nullptr);
      const std::vector<float> expected = SequenceRunner(*whole).Step(golden.tokens);

      for (FileWeightSource::Mode mode :
           {FileWeightSource::Mode::kShared, FileWeightSource::Mode::kStreamed}) {
        auto model = Load(golden.model, {.mode = mode, .activations = activations, .threads = 3});
        ASSERT_NE(model, nullptr);
        SequenceRunner runner(*model);
        std::vector<float> pieces;
        for (size_t first = 0; first < golden.tokens.size();) {
          const size_t count = std::min(golden.tokens.size() - first, first + 1);
          const auto begin = golden.tokens.begin() + first;
          const std::vector<float> piece = runner.Step({begin, begin + count});
          pieces.insert(pieces.end(), piece.begin(), piece.end());
          first += count;
        }
        EXPECT_TRUE(pieces == expected);
      }
    }
  }
}

void CheckStreamed(const std::string& preset) {
  const std::string path = ::testing::TempDir() + "/streamed-" + preset + ".gguf";
  auto plan =
      SyntheticModel::Plan({.preset = preset, .quantization = "Q4_K", .overrides = {.layers = 9}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  const uint64_t bytes = plan->Bytes().tensors;

  auto shared = RunningModel::Create(path, {.activations = ActivationPrecision::kInt8});
  ASSERT_TRUE(shared.ok()) << shared.status();
  SequenceRunner expected(**shared);
  const std::vector<int32_t> prompt = {1, 10, 45, 300, 7}, next = {8};
  const std::vector<float> expected_prompt = expected.Step(prompt);
  const std::vector<float> expected_next = expected.Step(next);

  bool streamed_some = false, streamed_all = false, refused = false;
  for (uint64_t budget = bytes + (1 << 20); budget > (32 << 10) && !refused; budget -= budget / 8) {
    SCOPED_TRACE(budget);
    auto model = RunningModel::Create(path, {.mode = FileWeightSource::Mode::kStreamed,
                                             .activations = ActivationPrecision::kInt8,
                                             .memory_budget = budget});
    if (!model.ok()) {
      EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
      refused = true;
      continue;
    }
    const Placement& placement = (*model)->engine->placement();
    // The budget is for what is fetched; alignment costs at most a cache line a tensor.
    EXPECT_LE((*model)->engine->loader().memory_bytes(), budget + 64 * 200);
    const auto streamed =
        std::count(placement.streamed_groups.begin(), placement.streamed_groups.end(), true);
    streamed_some |= streamed > 0 && streamed < 9;
    streamed_all |= streamed == 9;
    SequenceRunner runner(**model);
    EXPECT_TRUE(runner.Step(prompt) == expected_prompt);
    EXPECT_TRUE(runner.Step(next) == expected_next);
  }
  EXPECT_TRUE(streamed_some);
  EXPECT_TRUE(streamed_all);
  EXPECT_TRUE(refused);
}

TEST(ForwardPassTest, StreamedLayersGiveTheSameLogitsWithinTheBudget) {
  CheckStreamed("tiny-qwen3");
}

TEST(ForwardPassTest, StreamedExpertsGiveTheSameLogitsWithinTheBudget) {
  CheckStreamed("tiny-qwen3moe");
}

// Golden models whose experts come over the network, one by one: those of a token at a time, all of
// them, and, in a step of many tokens, as whole banks.
TEST(ForwardPassTest, CachedExpertsGiveTheSameLogits) {
  std::vector<int32_t> more;
  for (int i = 0; i < 70; ++i) more.push_back((7 + 31 * i) % 400);
  int models = 0;
  for (const GoldenModel& golden : GoldenModels()) {
    if (golden.dense) continue;
    SCOPED_TRACE(golden.model);
    ++models;
    auto shared =
        Load(golden.model, {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
    ASSERT_NE(shared, nullptr);
    const std::vector<int32_t> next = {8};
    const auto steps = {golden.tokens, next, more, next, more, next};
    SequenceRunner expected(*shared);
    std::vector<std::vector<float>> expected_steps;
    for (const auto& tokens : steps) expected_steps.push_back(expected.Step(tokens, 1));
    const RoutingRule& routing = shared->architecture->shape().experts.routing;
    for (const uint64_t host_cache :
         {LeastHostExpertBytes(shared->tensors, routing.used), uint64_t{1} << 30}) {
      SCOPED_TRACE(host_cache);
      auto model = Load(golden.model, {.mode = FileWeightSource::Mode::kStreamed,
                                       .activations = ActivationPrecision::kInt8,
                                       .step_tokens = 128,
                                       .host_cache = host_cache});
      ASSERT_NE(model, nullptr);
      const Placement& placement = model->engine->placement();
      EXPECT_GT(placement.cached_bytes, 0u);
      EXPECT_EQ(placement.streamed_bytes, 0u);
      SequenceRunner runner(*model);
      int step = 0;
      for (const auto& tokens : steps) {
        EXPECT_TRUE(runner.Step(tokens, 1) == expected_steps[step]) << step;
        ++step;
      }
      const auto counters = model->engine->expert_counters();
      ASSERT_TRUE(counters.ok()) << counters.status();
      uint64_t bytes = 0, uses = 0;
      for (const ExpertCounters& layer : *counters) {
        EXPECT_GT(layer.host_misses, 0u);
        bytes += layer.host_bytes;
        for (const uint32_t count : layer.uses) uses += count;
      }
      size_t tokens = 0;
      for (const auto& step_tokens : steps) tokens += step_tokens.size();
      EXPECT_EQ(uses, tokens * routing.used * counters->size());
      // Large enough, it has fetched each expert at most once.
      if (host_cache == uint64_t{1} << 30) {
        EXPECT_LE(bytes, placement.cached_bytes);
      }
    }
  }
  EXPECT_EQ(models, 7);
}

TEST(ForwardPassTest, AnExpertThatCannotBeFetchedFailsTheStepAndItCanBeTriedAgain) {
  auto shared = Load("qwen3moe-kq.gguf", {});
  ASSERT_NE(shared, nullptr);
  auto model = Load("qwen3moe-kq.gguf",
                    {.mode = FileWeightSource::Mode::kStreamed,
                     .host_cache = LeastHostExpertBytes(
                         shared->tensors, shared->architecture->shape().experts.routing.used)});
  ASSERT_NE(model, nullptr);
  SequenceRunner expected(*shared), runner(*model);
  EXPECT_TRUE(runner.Step({1, 10, 45}) == expected.Step({1, 10, 45}));
  int failed = 0;
  for (int position = 3; position < 23; ++position) {
    const int32_t token = (position * 37) % 400;
    StepBatch batch{
        .tokens = {token}, .positions = {position}, .logit_rows = {0}, .logit_values = {false}};
    batch.sequences.push_back({0, 1, position, {7, 6, 5, 4, 3, 2, 1, 0}});
    model->source->SetReadError(absl::UnavailableError("the daemon is away"));
    const absl::Status status =
        model->forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
    model->source->SetReadError(absl::OkStatus());
    // It goes well if all experts are those of the token before.
    if (!status.ok()) {
      ++failed;
      EXPECT_EQ(status, absl::UnavailableError("the daemon is away"));
    }
    EXPECT_TRUE(runner.Step({token}) == expected.Step({token}));
  }
  EXPECT_GT(failed, 3);
}

TEST(ForwardPassTest, ExpertsGetWhatTheMemoryLeaves) {
  const std::string path = ::testing::TempDir() + "/leaves.gguf";
  auto plan = SyntheticModel::Plan(
      {.preset = "tiny-qwen3moe", .quantization = "Q4_K", .overrides = {.layers = 9}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  const auto load = [&](uint64_t memory, uint64_t host_cache) {
    return RunningModel::Create(path, {.mode = FileWeightSource::Mode::kStreamed,
                                       .memory_budget = memory,
                                       .host_cache = host_cache});
  };
  // By default if, and only if, the memory does not hold the model.
  const uint64_t all = plan->Bytes().tensors;
  uint64_t least = 0;
  for (const uint64_t memory : {2 * all, all * 4 / 5}) {
    auto model = load(memory, UINT64_MAX);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->engine->placement().cached_bytes > 0, memory < all);
    uint64_t held = 0;
    for (const MemoryItem& item : (*model)->engine->Memory()) {
      if (item.purpose == "weights held by the worker" || item.purpose == "host cache of experts") {
        held += item.bytes;
      }
    }
    EXPECT_LE(held, memory + 64 * 200);
    least = LeastHostExpertBytes((*model)->tensors,
                                 (*model)->architecture->shape().experts.routing.used);
  }
  // What is asked for and cannot be had is refused.
  const auto expect_refused = [&](uint64_t memory, uint64_t host_cache, const std::string& what) {
    const absl::Status status = load(memory, host_cache).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_NE(status.message().find(what), std::string::npos) << status;
  };
  expect_refused(2 * all, least - 1, absl::StrCat("the smallest is ", least, " bytes"));
  expect_refused(1000, least, "the smallest budget is");
}

TEST(ForwardPassTest, AFailedFetchFailsTheStepAndTheNextOneRuns) {
  const std::string path = ::testing::TempDir() + "/failing.gguf";
  auto plan = SyntheticModel::Plan(
      {.preset = "tiny-llama", .quantization = "Q8_0", .overrides = {.layers = 9}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  auto shared = RunningModel::Create(path, {});
  ASSERT_TRUE(shared.ok()) << shared.status();
  const std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<float> expected = SequenceRunner(**shared).Step(tokens);

  auto model = RunningModel::Create(path, {.mode = FileWeightSource::Mode::kStreamed,
                                           .memory_budget = plan->Bytes().tensors / 2});
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_GT((*model)->engine->placement().streamed_bytes, 0u);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(SequenceRunner(**model).Step(tokens) == expected);
    (*model)->source->SetReadError(absl::UnavailableError("the daemon is away"));
    StepBatch batch{
        .tokens = tokens, .positions = {0, 1, 2}, .logit_rows = {2}, .logit_values = {false}};
    batch.sequences.push_back({0, 3, 0, {0}});
    // The ring still holds some layers; at the latest the second step needs others.
    absl::Status status;
    for (int step = 0; step < 3 && status.ok(); ++step) {
      status = (*model)->forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    (*model)->source->SetReadError(absl::OkStatus());
  }
  EXPECT_TRUE(SequenceRunner(**model).Step(tokens) == expected);
}

}  // namespace
}  // namespace gguf_offload
