// Whole models on the GPU, against llama.cpp's logits and the CPU backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "computed/placement/host_expert_plan.h"
#include "tests/fixtures/golden_models.h"
#include "tests/modelgen/synthetic_model.h"
#include "third_party/cuda/device_available.h"

// Of the emulator; a GPU's runtime does not count.
extern "C" __attribute__((weak)) int64_t CudaEmulatorHostWaits();

namespace gguf_offload {
namespace {

class ForwardPassCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  static std::unique_ptr<RunningModel> Load(const std::string& path,
                                            RunningModel::Options options) {
    options.cuda = options.activations != ActivationPrecision::kFloat32;
    auto model = RunningModel::Create(path, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  // Writes a model of `layers` layers and returns its path.
  std::string Synthetic(const std::string& preset, const std::string& quantization, int layers) {
    const std::string path = ::testing::TempDir() + "/" + preset + "-" + quantization + ".gguf";
    auto plan = SyntheticModel::Plan(
        {.preset = preset, .quantization = quantization, .overrides = {.layers = layers}});
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(plan->Write(path, 1).ok());
    matrix_bytes_ = plan->Bytes().tensors;
    return path;
  }

  // A model whose experts come over the network into caches of these sizes.
  std::unique_ptr<RunningModel> LoadFromTheNetwork(const std::string& path,
                                                   const RunningModel& resident,
                                                   uint64_t expert_cache, uint64_t host_cache) {
    return Load(path, {.mode = FileWeightSource::Mode::kStreamed,
                       .activations = ActivationPrecision::kInt8,
                       .step_tokens = 128,
                       .resident_weights = OtherBytes(resident) + BankBytes(resident) / 2,
                       .expert_cache = expert_cache,
                       .host_cache = host_cache});
  }

  // Of the model's experts, and of everything else.
  static uint64_t BankBytes(const RunningModel& model) { return Bytes(model, true); }
  static uint64_t OtherBytes(const RunningModel& model) { return Bytes(model, false); }

  uint64_t matrix_bytes_ = 0;  // of the last Synthetic

 private:
  static uint64_t Bytes(const RunningModel& model, bool banks) {
    uint64_t bytes = 0;
    for (const auto& group : model.tensors.groups) {
      for (const ModelTensor& tensor : group) {
        if ((ExpertMatrixOf(tensor) >= 0) == banks) bytes += tensor.bytes;
      }
    }
    return bytes;
  }
};

// A token whose experts are about as good as others may go to others when activations are rounded,
// and then all of its row is different: such models are judged by the median row.
double Deviation(const std::vector<float>& logits, const GoldenModel& golden) {
  return golden.dense ? Nmse(logits, golden.logits)
                      : MedianRowNmse(logits, golden.logits, golden.columns);
}

TEST_F(ForwardPassCudaTest, GoldenModelsInHalfPrecision) {
  for (const GoldenModel& golden : GoldenModels()) {
    SCOPED_TRACE(golden.model);
    auto model =
        Load(kGoldenModelFolder + golden.model, {.activations = ActivationPrecision::kFloat16});
    ASSERT_NE(model, nullptr);
    SequenceRunner runner(*model);
    const std::vector<float> logits = runner.Step(golden.tokens);
    const double nmse = Deviation(logits, golden);
    std::printf("%-24s nmse %.3g, of all rows %.3g\n", golden.model.c_str(), nmse,
                Nmse(logits, golden.logits));
    EXPECT_TRUE(nmse <= 1e-4) << nmse;
    if (golden.greedy_min_margin > 1e-3) {
      EXPECT_EQ(Greedy(runner, logits, golden.columns, golden.greedy.size()), golden.greedy);
    }
  }
}

TEST_F(ForwardPassCudaTest, GoldenModelsInInt8) {
  for (const GoldenModel& golden : GoldenModels()) {
    SCOPED_TRACE(golden.model);
    auto model =
        Load(kGoldenModelFolder + golden.model, {.activations = ActivationPrecision::kInt8});
    ASSERT_NE(model, nullptr);
    const double nmse = Deviation(SequenceRunner(*model).Step(golden.tokens), golden);
    // Token by token, through recorded graphs.
    SequenceRunner runner(*model);
    std::vector<float> single;
    for (int32_t token : golden.tokens) {
      const std::vector<float> row = runner.Step({token});
      single.insert(single.end(), row.begin(), row.end());
    }
    const double single_nmse = Deviation(single, golden);
    std::printf("%-24s nmse %.3g, token by token %.3g\n", golden.model.c_str(), nmse, single_nmse);
    EXPECT_TRUE(nmse <= 5e-3) << nmse;
    EXPECT_TRUE(single_nmse <= 5e-3) << single_nmse;
  }
}

// Whatever way the weights come in, the same operations run on the same bytes.
TEST_F(ForwardPassCudaTest, TransportsAndBudgetsGiveTheSameLogits) {
  const std::pair<const char*, const char*> models[] = {
      {"tiny-qwen3", "Q4_K"}, {"tiny-qwen3", "Q8_0"}, {"tiny-qwen3moe", "Q4_K"}};
  for (const auto& [preset, quantization] : models) {
    const std::string path = Synthetic(preset, quantization, 7);
    auto resident = Load(path, {.activations = ActivationPrecision::kInt8});
    ASSERT_NE(resident, nullptr);
    EXPECT_EQ(resident->engine->placement().streamed_bytes, 0u);
    const std::vector<int32_t> prompt = {1, 10, 45, 300, 7}, next = {8};
    SequenceRunner expected(*resident);
    const std::vector<float> expected_prompt = expected.Step(prompt);
    const std::vector<float> expected_next = expected.Step(next);
    for (uint64_t limit : {uint64_t{0}, matrix_bytes_ / 2, matrix_bytes_ * 9 / 10}) {
      for (Transport transport :
           {Transport::kAuto, Transport::kRegistered, Transport::kStaged, Transport::kDirectIo}) {
        for (FileWeightSource::Mode mode :
             {FileWeightSource::Mode::kShared, FileWeightSource::Mode::kStreamed}) {
          const bool streamed = mode == FileWeightSource::Mode::kStreamed;
          if (streamed && transport != Transport::kAuto) continue;
          // Experts take longer, and every way in has been seen.
          const bool experts = resident->architecture->shape().has_experts();
          if (experts && (transport == Transport::kRegistered || limit > matrix_bytes_ / 2))
            continue;
          SCOPED_TRACE(limit);
          SCOPED_TRACE(static_cast<int>(transport));
          auto model = Load(path, {.mode = mode,
                                   .activations = ActivationPrecision::kInt8,
                                   .resident_weights = limit,
                                   .transport = transport});
          ASSERT_NE(model, nullptr);
          const Placement& placement = model->engine->placement();
          EXPECT_GT(placement.streamed_bytes + placement.cached_bytes, 0u);
          SequenceRunner runner(*model);
          EXPECT_TRUE(runner.Step(prompt) == expected_prompt);
          for (int i = 0; i < 2; ++i) {
            SequenceRunner again(*model);
            EXPECT_TRUE(again.Step(prompt) == expected_prompt);
            EXPECT_TRUE(again.Step(next) == expected_next);
          }
          EXPECT_EQ(
              model->engine->Fallbacks().empty(),
              !streamed && (transport == Transport::kAuto || transport == Transport::kRegistered));
        }
      }
    }
  }
}

// With a cache for a few experts, for one token's only (which all layers share) and for none,
// whatever is fetched when: the same operations on the same bytes, in steps of a few tokens, of
// many and of single ones.
TEST_F(ForwardPassCudaTest, CachedExpertsGiveTheSameLogits) {
  for (const char* preset : {"tiny-qwen3moe", "tiny-deepseek2"}) {
    SCOPED_TRACE(preset);
    const std::string path = Synthetic(preset, "Q4_K", 4);
    std::vector<int32_t> prompt = {1, 10, 45, 300, 7}, more, next = {8};
    for (int i = 0; i < 70; ++i) more.push_back((7 + 31 * i) % 400);
    auto resident = Load(path, {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
    ASSERT_NE(resident, nullptr);
    SequenceRunner expected(*resident);
    std::vector<std::vector<float>> expected_steps;
    for (const auto& tokens : {prompt, more, next, next, next}) {
      expected_steps.push_back(expected.Step(tokens, 1));
    }
    const uint64_t bank_bytes = BankBytes(*resident), other_bytes = OtherBytes(*resident);
    uint64_t last_misses = 0;
    for (uint64_t cache : {bank_bytes * 2 / 3, bank_bytes / 3, uint64_t{0}}) {
      SCOPED_TRACE(cache);
      auto model = Load(path, {.activations = ActivationPrecision::kInt8,
                               .step_tokens = 128,
                               .resident_weights = other_bytes + bank_bytes / 2,
                               .expert_cache = cache});
      ASSERT_NE(model, nullptr);
      EXPECT_EQ(model->engine->placement().cached_bytes, bank_bytes);
      EXPECT_EQ(model->engine->placement().streamed_bytes, 0u);
      SequenceRunner runner(*model);
      int step = 0;
      for (const auto& tokens : {prompt, more, next, next, next}) {
        EXPECT_TRUE(runner.Step(tokens, 1) == expected_steps[step++]);
      }
      auto counters = model->engine->expert_counters();
      ASSERT_TRUE(counters.ok()) << counters.status();
      const auto all = resident->engine->expert_counters();
      ASSERT_TRUE(all.ok()) << all.status();
      ASSERT_EQ(counters->size(), all->size());
      uint64_t misses = 0;
      for (size_t i = 0; i < counters->size(); ++i) {
        const ExpertCounters& layer = (*counters)[i];
        EXPECT_EQ(layer.uses, (*all)[i].uses);
        EXPECT_GE(layer.slots, resident->architecture->shape().experts.routing.used);
        EXPECT_GT(layer.misses, 0u);
        EXPECT_GT(layer.bytes, layer.misses);
        misses += layer.misses;
        EXPECT_EQ((*all)[i].slots, 0);
      }
      EXPECT_GE(misses, last_misses);
      last_misses = misses;
    }
  }
}

// Neither for weights nor for experts that are not in the cache.
TEST_F(ForwardPassCudaTest, TheHostWaitsOnceAStep) {
  if (CudaEmulatorHostWaits == nullptr) GTEST_SKIP() << "only the emulator counts";
  for (const char* preset : {"tiny-llama", "tiny-qwen3moe", "tiny-deepseek2"}) {
    SCOPED_TRACE(preset);
    const std::string path = Synthetic(preset, "Q4_K", 4);
    auto resident = Load(path, {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
    ASSERT_NE(resident, nullptr);
    const uint64_t bank_bytes = BankBytes(*resident), other_bytes = OtherBytes(*resident);
    auto model = Load(path, {.activations = ActivationPrecision::kInt8,
                             .step_tokens = 128,
                             .resident_weights = bank_bytes > 0 ? other_bytes + bank_bytes / 2 : 0,
                             .expert_cache = bank_bytes / 3});
    ASSERT_NE(model, nullptr);
    const auto& placement = model->engine->placement();
    EXPECT_GT(bank_bytes > 0 ? placement.cached_bytes : placement.streamed_bytes, 0u);
    SequenceRunner runner(*model);
    runner.Step({1, 10, 45, 300, 7}, 1);
    for (int step = 0; step < 6; ++step) {  // as it is, recorded, replayed
      const int64_t before = CudaEmulatorHostWaits();
      runner.Step({8 + step}, 1);
      EXPECT_EQ(CudaEmulatorHostWaits() - before, 1) << step;
    }
  }
}

// The same over the network, through a cache in the host's memory that has room for all experts,
// for some, and for those of one token.
TEST_F(ForwardPassCudaTest, ExpertsFromTheNetworkGiveTheSameLogits) {
  for (const char* preset : {"tiny-qwen3moe", "tiny-deepseek2"}) {
    SCOPED_TRACE(preset);
    const std::string path = Synthetic(preset, "Q4_K_M", 4);
    const std::vector<int32_t> prompt = {1, 10, 45, 300, 7}, next = {8};
    std::vector<int32_t> more;
    for (int i = 0; i < 70; ++i) more.push_back((7 + 31 * i) % 400);
    const auto steps = {prompt, next, more, next, next, next};
    auto resident = Load(path, {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
    ASSERT_NE(resident, nullptr);
    SequenceRunner expected(*resident);
    std::vector<std::vector<float>> expected_steps;
    for (const auto& tokens : steps) expected_steps.push_back(expected.Step(tokens, 1));
    const uint64_t bank_bytes = BankBytes(*resident);
    const uint64_t least = LeastHostExpertBytes(
        resident->tensors, resident->architecture->shape().experts.routing.used);
    uint64_t last_misses = 0;
    for (const auto& [expert_cache, host_cache] : {std::pair(bank_bytes * 2 / 3, 2 * bank_bytes),
                                                   {bank_bytes / 3, bank_bytes / 3},
                                                   {uint64_t{0}, bank_bytes / 2},
                                                   {uint64_t{0}, least}}) {
      SCOPED_TRACE(host_cache);
      auto model = LoadFromTheNetwork(path, *resident, expert_cache, host_cache);
      ASSERT_NE(model, nullptr);
      EXPECT_EQ(model->engine->placement().cached_bytes, bank_bytes);
      SequenceRunner runner(*model);
      int step = 0;
      for (const auto& tokens : steps) {
        EXPECT_TRUE(runner.Step(tokens, 1) == expected_steps[step]) << step;
        ++step;
      }
      auto counters = model->engine->expert_counters();
      ASSERT_TRUE(counters.ok()) << counters.status();
      uint64_t host_misses = 0;
      for (const ExpertCounters& layer : *counters) {
        EXPECT_GT(layer.misses, 0u);
        // What the GPU misses is looked for on the host.
        EXPECT_EQ(layer.host_hits + layer.host_misses, layer.misses);
        EXPECT_GT(layer.host_misses, 0u);
        EXPECT_EQ(layer.host_bytes * layer.misses, layer.bytes * layer.host_misses);
        host_misses += layer.host_misses;
      }
      EXPECT_GE(host_misses, last_misses);
      last_misses = host_misses;
    }
  }
}

// A slot that was not filled is never believed to be, in recorded steps either.
TEST_F(ForwardPassCudaTest, AnExpertThatCannotBeFetchedFailsTheStepAndItCanBeTriedAgain) {
  const std::string path = Synthetic("tiny-qwen3moe", "Q4_K", 4);
  auto resident = Load(path, {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
  ASSERT_NE(resident, nullptr);
  auto model =
      LoadFromTheNetwork(path, *resident, BankBytes(*resident) / 2, BankBytes(*resident) / 2);
  ASSERT_NE(model, nullptr);
  SequenceRunner expected(*resident), runner(*model);
  const std::vector<int32_t> prompt = {1, 10, 45, 300, 7};
  EXPECT_TRUE(runner.Step(prompt, 1) == expected.Step(prompt, 1));
  int failed = 0;
  for (int position = 5; position < 25; ++position) {
    SCOPED_TRACE(position);
    const int32_t token = (position * 37) % 400;
    if (position % 2 == 0) {
      StepBatch batch{
          .tokens = {token}, .positions = {position}, .logit_rows = {0}, .logit_values = {false}};
      batch.sequences.push_back({0, 1, position, {7, 6, 5, 4, 3, 2, 1, 0}});
      model->source->SetReadError(absl::UnavailableError("the daemon is away"));
      const absl::Status status =
          model->forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
      model->source->SetReadError(absl::OkStatus());
      // It goes well if all experts are there.
      if (!status.ok()) {
        ++failed;
        EXPECT_EQ(status, absl::UnavailableError("the daemon is away"));
      }
    }
    EXPECT_TRUE(runner.Step({token}) == expected.Step({token}));
  }
  EXPECT_GT(failed, 3);
}

TEST_F(ForwardPassCudaTest, AHostCacheTooSmallSaysWhatWouldDo) {
  const std::string path = Synthetic("tiny-qwen3moe", "Q4_K", 4);
  auto resident = Load(path, {.activations = ActivationPrecision::kInt8});
  ASSERT_NE(resident, nullptr);
  const uint64_t least =
      LeastHostExpertBytes(resident->tensors, resident->architecture->shape().experts.routing.used);
  for (uint64_t host_cache : {least - 1, least}) {
    auto model = RunningModel::Create(
        path, {.mode = FileWeightSource::Mode::kStreamed,
               .cuda = true,
               .activations = ActivationPrecision::kInt8,
               .resident_weights = OtherBytes(*resident) + BankBytes(*resident) / 2,
               .host_cache = host_cache});
    EXPECT_EQ(model.ok(), host_cache == least) << model.status();
    if (model.ok()) continue;
    EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(model.status().message().find(absl::StrCat("the smallest is ", least, " bytes")),
              std::string::npos)
        << model.status();
  }
}

// Prompts beyond the crossover to cuBLAS, several tiles of attention, against the CPU.
TEST_F(ForwardPassCudaTest, LongPromptsAndBatchesAgreeWithTheCpu) {
  const std::string path = Synthetic("tiny-qwen3", "Q6_K", 3);
  auto cpu = Load(path, {.activations = ActivationPrecision::kFloat32, .step_tokens = 256});
  auto gpu = Load(path, {.activations = ActivationPrecision::kInt8, .step_tokens = 256});
  ASSERT_NE(cpu, nullptr);
  ASSERT_NE(gpu, nullptr);
  const auto run = [&](RunningModel& model, bool decode) {
    // Two prompts of 150 and 90 tokens, and a single token at the start of a third sequence; then
    // one more token of each.
    StepBatch batch;
    std::vector<std::vector<float>> rows;
    const int lengths[] = {150, 90, 1};
    for (int step = 0; step < (decode ? 2 : 1); ++step) {
      batch.Clear();
      rows.clear();
      for (int s = 0; s < 3; ++s) {
        const int first = step == 0 ? 0 : lengths[s];
        const int count = step == 0 ? lengths[s] : 1;
        StepBatch::Sequence sequence{batch.rows(), count, first, {}};
        for (int page = 0; page < 6; ++page) sequence.pages.push_back(17 - s - 3 * page);
        for (int i = 0; i < count; ++i) {
          batch.tokens.push_back((s * 131 + (first + i) * 17 + 3) % 400);
          batch.positions.push_back(first + i);
        }
        batch.logit_rows.push_back(batch.rows() - 1);
        batch.logit_values.push_back(true);
        batch.sequences.push_back(sequence);
      }
      const absl::Status status =
          model.forward->Run(batch, absl::InfiniteFuture(), [&](int index, const RowLogits& row) {
            EXPECT_EQ(row.largest,
                      std::max_element(row.values.begin(), row.values.end()) - row.values.begin());
            rows.emplace_back(row.values.begin(), row.values.end());
          });
      EXPECT_TRUE(status.ok()) << status;
    }
    return rows;
  };
  for (bool decode : {false, true}) {
    const auto expected = run(*cpu, decode), got = run(*gpu, decode);
    ASSERT_EQ(expected.size(), got.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const double nmse = Nmse(got[i], expected[i]);
      EXPECT_TRUE(nmse <= 5e-3) << "row " << i << ": " << nmse;
    }
  }
}

// What a sequence says does not depend on the sequences that are generated beside it.
TEST_F(ForwardPassCudaTest, ASequenceDoesNotDependOnOthers) {
  constexpr int kSequences = 3, kSteps = 3;
  for (const auto& [preset, quantization] :
       {std::pair("tiny-qwen3", "Q4_K_M"), {"tiny-llama", "Q8_0"}, {"tiny-deepseek2", "Q4_K"}}) {
    SCOPED_TRACE(preset);
    auto model = Load(Synthetic(preset, quantization, 4),
                      {.activations = ActivationPrecision::kInt8, .step_tokens = 128});
    ASSERT_NE(model, nullptr);
    // Steps of these sequences together, a token of each; the logits of each step's rows.
    const auto run = [&](const std::vector<int>& sequences) {
      std::vector<std::vector<float>> rows;
      for (int step = 0; step < kSteps; ++step) {
        StepBatch batch;
        for (int s : sequences) {
          batch.tokens.push_back((s * 131 + step * 17 + 3) % 400);
          batch.positions.push_back(step);
          batch.logit_rows.push_back(batch.rows() - 1);
          batch.logit_values.push_back(true);
          batch.sequences.push_back({batch.rows() - 1, 1, step, {s}});
        }
        const absl::Status status =
            model->forward->Run(batch, absl::InfiniteFuture(), [&](int, const RowLogits& row) {
              rows.emplace_back(row.values.begin(), row.values.end());
            });
        EXPECT_TRUE(status.ok()) << status;
      }
      return rows;
    };
    const auto together = run({0, 1, 2});
    ASSERT_EQ(together.size(), size_t{kSequences * kSteps});
    for (int s = 0; s < kSequences; ++s) {
      const auto alone = run({s});
      ASSERT_EQ(alone.size(), size_t{kSteps});
      for (int step = 0; step < kSteps; ++step) {
        EXPECT_TRUE(alone[step] == together[step * kSequences + s]) << s << " " << step;
      }
    }
  }
}

TEST_F(ForwardPassCudaTest, ABudgetTooSmallSaysWhatWouldDo) {
  const std::string path = Synthetic("tiny-qwen3", "Q4_K", 9);
  auto model = RunningModel::Create(
      path, {.cuda = true, .activations = ActivationPrecision::kInt8, .memory_budget = 20 << 20});
  ASSERT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
  const std::string message(model.status().message());
  EXPECT_NE(message.find("kv cache"), std::string::npos) << message;
  const size_t at = message.find("smallest budget");
  ASSERT_NE(at, std::string::npos) << message;
  const double smallest = std::strtod(message.c_str() + at + sizeof("smallest budget"), nullptr);
  for (bool enough : {true, false}) {
    auto again = RunningModel::Create(
        path,
        {.cuda = true,
         .activations = ActivationPrecision::kInt8,
         .memory_budget = static_cast<uint64_t>((smallest + (enough ? 0.1 : -0.2)) * 1048576)});
    EXPECT_EQ(again.ok(), enough) << again.status();
  }
}

TEST_F(ForwardPassCudaTest, AFailedFetchFailsTheStepAndTheNextOneRuns) {
  const std::string path = Synthetic("tiny-llama", "Q8_0", 9);
  auto resident = Load(path, {.activations = ActivationPrecision::kInt8});
  ASSERT_NE(resident, nullptr);
  const std::vector<int32_t> tokens = {1, 2, 3};
  const std::vector<float> expected = SequenceRunner(*resident).Step(tokens);
  auto model = Load(path, {.mode = FileWeightSource::Mode::kStreamed,
                           .activations = ActivationPrecision::kInt8,
                           .resident_weights = matrix_bytes_ / 2});
  ASSERT_NE(model, nullptr);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(SequenceRunner(*model).Step(tokens) == expected);
    model->source->SetReadError(absl::UnavailableError("the daemon is away"));
    StepBatch batch{
        .tokens = tokens, .positions = {0, 1, 2}, .logit_rows = {2}, .logit_values = {false}};
    batch.sequences.push_back({0, 3, 0, {0}});
    absl::Status status;
    for (int step = 0; step < 3 && status.ok(); ++step) {
      status = model->forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    model->source->SetReadError(absl::OkStatus());
  }
  EXPECT_TRUE(SequenceRunner(*model).Step(tokens) == expected);
}

}  // namespace
}  // namespace gguf_offload
