#include "computed/session/forward_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/fixtures/running_model.h"
#include "tests/modelgen/synthetic_model.h"

namespace gguf_offload {
namespace {

constexpr char kFolder[] = "tests/testdata/golden/models/";

// A golden model: a prompt, the logits of each of its positions and the greedy continuation, all
// from llama.cpp in float32.
struct Golden {
  std::string model;
  std::vector<int32_t> tokens;
  std::vector<int32_t> greedy;
  double greedy_min_margin;
  std::vector<float> logits;  // (tokens, columns)
  int columns;
};

std::vector<Golden> DenseGoldens() {
  std::vector<Golden> goldens;
  const nlohmann::json index =
      nlohmann::json::parse(std::ifstream(std::string(kFolder) + "index.json"));
  for (const auto& entry : index) {
    Golden golden{.model = entry["model"],
                  .tokens = entry["tokens"],
                  .greedy = entry["greedy"],
                  .greedy_min_margin = entry["greedy_min_margin"],
                  .columns = entry["columns"]};
    const bool dense = golden.model.starts_with("llama-") || golden.model.starts_with("qwen2-") ||
                       golden.model.starts_with("qwen3-");
    if (!dense) continue;
    golden.logits.resize(golden.tokens.size() * golden.columns);
    std::ifstream file(kFolder + entry["logits"].get<std::string>(), std::ios::binary);
    file.read(reinterpret_cast<char*>(golden.logits.data()), golden.logits.size() * sizeof(float));
    EXPECT_EQ(file.gcount(), static_cast<std::streamsize>(golden.logits.size() * sizeof(float)));
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

// One sequence on pages 0, 1, ...
class Runner {
 public:
  explicit Runner(RunningModel& model) : model_(model) {
    for (int page = 0; page < 8; ++page) pages_.push_back(7 - page);
  }

  // Runs `tokens` in one step and returns the logits of each: (tokens, vocabulary).
  std::vector<float> Step(const std::vector<int32_t>& tokens) {
    StepBatch batch;
    batch.tokens = tokens;
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch.positions.push_back(position_ + i);
      batch.logit_rows.push_back(i);
    }
    batch.sequences.push_back({0, static_cast<int>(tokens.size()), position_, pages_});
    position_ += tokens.size();
    std::vector<float> logits;
    const absl::Status status =
        model_.forward->Run(batch, absl::InfiniteFuture(), [&](int index, std::span<float> row) {
          EXPECT_EQ(index * row.size(), logits.size());
          logits.insert(logits.end(), row.begin(), row.end());
        });
    EXPECT_TRUE(status.ok()) << status;
    return logits;
  }

 private:
  RunningModel& model_;
  std::vector<int32_t> pages_;
  int position_ = 0;
};

// sum((a - b)^2) / sum(b^2)
double Nmse(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return error / norm;
}

std::vector<int32_t> Greedy(Runner& runner, std::vector<float> logits, int columns, int count) {
  std::vector<int32_t> tokens;
  while (static_cast<int>(tokens.size()) < count) {
    const auto row = logits.end() - columns;
    tokens.push_back(std::max_element(row, logits.end()) - row);
    logits = runner.Step({tokens.back()});
  }
  return tokens;
}

std::unique_ptr<RunningModel> Load(const std::string& name, RunningModel::Options options) {
  auto model = RunningModel::Create(kFolder + name, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// The greedy continuation is compared where activations are exact: with 8-bit ones these random
// models, whose best tokens are often within a percent of each other, may go other ways.
void CheckGolden(ActivationType activations, double bound) {
  const std::vector<Golden> goldens = DenseGoldens();
  ASSERT_EQ(goldens.size(), 7u);
  for (const Golden& golden : goldens) {
    SCOPED_TRACE(golden.model);
    auto model = Load(golden.model, {.activations = activations});
    ASSERT_NE(model, nullptr);
    Runner runner(*model);
    const std::vector<float> logits = runner.Step(golden.tokens);
    const double nmse = Nmse(logits, golden.logits);
    // Written so that NaN fails.
    EXPECT_TRUE(nmse <= bound) << nmse;
    std::printf("%-24s nmse %.3g\n", golden.model.c_str(), nmse);
    if (activations == ActivationType::kFloat32 && golden.greedy_min_margin > 1e-3) {
      EXPECT_EQ(Greedy(runner, logits, golden.columns, golden.greedy.size()), golden.greedy);
    }
  }
}

TEST(ForwardPassTest, GoldenModelsWithFloat32Activations) {
  CheckGolden(ActivationType::kFloat32, 1e-6);
}

TEST(ForwardPassTest, GoldenModelsWithInt8Activations) { CheckGolden(ActivationType::kInt8, 5e-3); }

TEST(ForwardPassTest, ResultsDoNotDependOnPiecesThreadsOrTransport) {
  for (const Golden& golden : DenseGoldens()) {
    SCOPED_TRACE(golden.model);
    for (ActivationType activations : {ActivationType::kFloat32, ActivationType::kInt8}) {
      auto whole = Load(golden.model, {.activations = activations, .threads = 1});
      ASSERT_NE(whole, nullptr);
      const std::vector<float> expected = Runner(*whole).Step(golden.tokens);

      for (FileWeightSource::Mode mode :
           {FileWeightSource::Mode::kShared, FileWeightSource::Mode::kStreamed}) {
        auto model = Load(golden.model, {.mode = mode, .activations = activations, .threads = 3});
        ASSERT_NE(model, nullptr);
        Runner runner(*model);
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

TEST(ForwardPassTest, StreamedLayersGiveTheSameLogitsWithinTheBudget) {
  const std::string path = ::testing::TempDir() + "/streamed.gguf";
  auto plan = SyntheticModel::Plan(
      {.preset = "tiny-qwen3", .quantization = "Q4_K", .overrides = {.layers = 9}});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->Write(path, 1).ok());
  const uint64_t bytes = plan->Bytes().tensors;

  auto shared = RunningModel::Create(path, {.activations = ActivationType::kInt8});
  ASSERT_TRUE(shared.ok()) << shared.status();
  Runner expected(**shared);
  const std::vector<int32_t> prompt = {1, 10, 45, 300, 7}, next = {8};
  const std::vector<float> expected_prompt = expected.Step(prompt);
  const std::vector<float> expected_next = expected.Step(next);

  bool streamed_some = false, streamed_all = false, refused = false;
  for (uint64_t budget = bytes + (1 << 20); budget > (32 << 10) && !refused; budget -= budget / 8) {
    SCOPED_TRACE(budget);
    auto model = RunningModel::Create(path, {.mode = FileWeightSource::Mode::kStreamed,
                                             .activations = ActivationType::kInt8,
                                             .memory_budget = budget});
    if (!model.ok()) {
      EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
      refused = true;
      continue;
    }
    const Placement& placement = (*model)->placement;
    // The budget is for what is fetched; alignment costs at most a cache line a tensor.
    EXPECT_LE((*model)->loader->memory_bytes(), budget + 64 * 200);
    const auto streamed =
        std::count(placement.streamed_groups.begin(), placement.streamed_groups.end(), true);
    streamed_some |= streamed > 0 && streamed < 9;
    streamed_all |= streamed == 9;
    Runner runner(**model);
    EXPECT_TRUE(runner.Step(prompt) == expected_prompt);
    EXPECT_TRUE(runner.Step(next) == expected_next);
  }
  EXPECT_TRUE(streamed_some);
  EXPECT_TRUE(streamed_all);
  EXPECT_TRUE(refused);
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
  const std::vector<float> expected = Runner(**shared).Step(tokens);

  auto model = RunningModel::Create(path, {.mode = FileWeightSource::Mode::kStreamed,
                                           .memory_budget = plan->Bytes().tensors / 2});
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_GT((*model)->placement.streamed_bytes, 0u);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(Runner(**model).Step(tokens) == expected);
    (*model)->source->SetReadError(absl::UnavailableError("the daemon is away"));
    StepBatch batch{.tokens = tokens, .positions = {0, 1, 2}, .logit_rows = {2}};
    batch.sequences.push_back({0, 3, 0, {0}});
    // The ring still holds some layers; at the latest the second step needs others.
    absl::Status status;
    for (int step = 0; step < 3 && status.ok(); ++step) {
      status = (*model)->forward->Run(batch, absl::InfiniteFuture(), [](int, std::span<float>) {});
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    (*model)->source->SetReadError(absl::OkStatus());
  }
  EXPECT_TRUE(Runner(**model).Step(tokens) == expected);
}

}  // namespace
}  // namespace gguf_offload
