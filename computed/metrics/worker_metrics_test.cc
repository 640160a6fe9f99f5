#include "computed/metrics/worker_metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/fixtures/running_model.h"

namespace gguf_offload {
namespace {

constexpr char kModel[] = "tests/testdata/golden/models/llama-kq.gguf";
constexpr char kExpertModel[] = "tests/testdata/golden/models/qwen3moe-kq.gguf";
const std::vector<int32_t> kPrompt = {509, 10, 45, 300, 7, 128, 400, 260, 33, 71, 501, 2};

// Lets tests wait for a request's answers.
class Answer : public RequestObserver {
 public:
  void OnToken(int32_t, std::string, std::optional<StepLogProbabilities>) override {
    absl::MutexLock lock(&mutex_);
    ++tokens_;
  }
  void OnDone(const absl::Status& status, const RequestResult&) override {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
  }
  absl::Status Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
    return status_;
  }
  void WaitForTokens(int count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return done_ || tokens_ >= count; };
    mutex_.Await(absl::Condition(&there));
  }
  int tokens() {
    absl::MutexLock lock(&mutex_);
    return tokens_;
  }

 private:
  absl::Mutex mutex_;
  int tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class WorkerMetricsTest : public ::testing::Test {
 protected:
  void Start(RunningModel::Options model_options = {}, InferenceSessionOptions options = {},
             const char* path = kModel) {
    auto model = RunningModel::Create(path, model_options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    options.vocabulary = model_->architecture->shape().vocabulary;
    options.context_tokens = 1024;
    options.kv_pages = 64;
    options.step_tokens = 64;
    options.events = &metrics_;
    session_ = std::make_unique<InferenceSession>(
        options, *model_->forward, /*tokenizer=*/nullptr,
        [this] { return model_->source->CheckIntact(); }, /*trace=*/nullptr);
    worker_.source = model_->source.get();
    worker_.engine = model_->engine.get();
    worker_.session = session_.get();
    metrics_.Watch(&worker_);
  }

  void TearDown() override { metrics_.Watch(nullptr); }

  static Request Generate(int max_tokens) {
    Request request;
    request.prompt = kPrompt;
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    return request;
  }

  // Values by name without the prefix, and the last label's value; of histograms the count.
  std::map<std::string, double> Values() {
    std::map<std::string, double> values;
    auto families = registry_.Collect();
    for (auto& family : metrics_.Collect()) families.push_back(family);
    for (const prometheus::MetricFamily& family : families) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::string key = family.name.substr(sizeof("gguf_offload_computed_") - 1);
        for (const auto& label : metric.label) key += " " + label.value;
        switch (family.type) {
          case prometheus::MetricType::Counter:
            values[key] = metric.counter.value;
            break;
          case prometheus::MetricType::Histogram:
            values[key] = static_cast<double>(metric.histogram.sample_count);
            sums_[key] = metric.histogram.sample_sum;
            break;
          default:
            values[key] = metric.gauge.value;
        }
      }
    }
    return values;
  }

  prometheus::Registry registry_;
  WorkerMetrics metrics_{registry_};
  std::map<std::string, double> sums_;
  std::unique_ptr<RunningModel> model_;
  std::unique_ptr<InferenceSession> session_;
  Worker worker_;
};

TEST_F(WorkerMetricsTest, CountsRequestsTokensAndSteps) {
  Start();
  for (const int tokens : {5, 1, 8}) {
    auto answer = std::make_shared<Answer>();
    ASSERT_TRUE(session_->Submit(Generate(tokens), answer).ok());
    ASSERT_TRUE(answer->Wait().ok());
  }
  Request evaluate;
  evaluate.kind = Request::Kind::kEvaluate;
  evaluate.prompt = kPrompt;
  auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(session_->Submit(evaluate, answer).ok());
  ASSERT_TRUE(answer->Wait().ok());

  // No waiting: what has been answered is counted.
  auto values = Values();
  EXPECT_EQ(values["requests_finished_total generate length"], 3);
  EXPECT_EQ(values["requests_finished_total evaluate evaluated"], 1);
  EXPECT_EQ(values["requests_finished_total generate cancelled"], 0);
  EXPECT_EQ(values["generated_tokens_total"], 14);
  EXPECT_EQ(values["prompt_tokens_total"], 4 * 12);
  EXPECT_EQ(values["time_to_first_token_seconds"], 3);
  EXPECT_EQ(values["inter_token_seconds"], 14 - 3);
  EXPECT_EQ(values["request_queue_seconds"], 4);
  EXPECT_EQ(values["request_seconds generate"], 3);
  EXPECT_EQ(values["request_seconds evaluate"], 1);
  // One step for each prompt, which gives the first token, and one for each further token.
  EXPECT_EQ(values["steps_total ok"], 4 + 11);
  EXPECT_EQ(values["steps_total failed"], 0);
  EXPECT_EQ(values["step_tokens"], 15);
  EXPECT_EQ(sums_["step_tokens"], 4 * 12 + 11);
  EXPECT_EQ(values["step_seconds"], 15);
  EXPECT_GT(sums_["step_seconds"], 0);
  EXPECT_GE(sums_["request_seconds generate"], sums_["time_to_first_token_seconds"]);
  EXPECT_EQ(values["kv_pages"], 64);
  EXPECT_EQ(values["memory_budget_bytes"], static_cast<double>(uint64_t{1} << 40));
  EXPECT_GT(values["memory_bytes kv cache"], 0);
  EXPECT_GT(values["weight_bytes shared"], 0);
  EXPECT_EQ(values["expert_misses_total"], 0);
  EXPECT_EQ(values["expert_predicted_total"], 0);
  EXPECT_EQ(values["weights_attached"], 1);
}

TEST_F(WorkerMetricsTest, ShowsWhatRunsAndWhatIsCancelled) {
  Start({}, {.max_sequences = 1, .max_waiting = 1});
  auto running = std::make_shared<Answer>(), waiting = std::make_shared<Answer>();
  auto id = session_->Submit(Generate(900), running);
  ASSERT_TRUE(id.ok());
  running->WaitForTokens(1);
  auto second = session_->Submit(Generate(2), waiting);
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(session_->Submit(Generate(2), std::make_shared<Answer>()).ok());
  Request too_long = Generate(2);
  too_long.prompt.assign(1024, 1);
  EXPECT_FALSE(session_->Submit(too_long, std::make_shared<Answer>()).ok());
  Request bad = Generate(2);
  bad.prompt = {-1};
  EXPECT_FALSE(session_->Submit(bad, std::make_shared<Answer>()).ok());
  auto values = Values();
  EXPECT_EQ(values["requests_running"], 1);
  EXPECT_EQ(values["requests_waiting"], 1);
  EXPECT_EQ(values["kv_pages_used"], (12 + 900 + 31) / 32);
  EXPECT_EQ(values["requests_rejected_total queue_full"], 1);
  EXPECT_EQ(values["requests_rejected_total too_long"], 1);
  EXPECT_EQ(values["requests_rejected_total invalid"], 1);
  EXPECT_EQ(values["requests_rejected_total draining"], 0);

  session_->Cancel(*id);
  EXPECT_FALSE(running->Wait().ok());
  EXPECT_TRUE(waiting->Wait().ok());
  values = Values();
  EXPECT_EQ(values["requests_finished_total generate cancelled"], 1);
  EXPECT_EQ(values["requests_finished_total generate length"], 1);
  EXPECT_EQ(values["request_seconds generate"], 1);
  EXPECT_EQ(values["generated_tokens_total"], running->tokens() + 2);
  EXPECT_TRUE(session_->Drain(absl::InfiniteFuture()));
  EXPECT_FALSE(session_->Submit(Generate(2), std::make_shared<Answer>()).ok());
  EXPECT_EQ(Values()["requests_rejected_total draining"], 1);
}

TEST_F(WorkerMetricsTest, AFailedStepCountsAsSuch) {
  Start();
  model_->source->SetIntact(absl::DataLossError("file shrank"));
  auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(session_->Submit(Generate(5), answer).ok());
  EXPECT_FALSE(answer->Wait().ok());
  auto values = Values();
  EXPECT_EQ(values["steps_total failed"], 1);
  EXPECT_EQ(values["steps_total ok"], 0);
  EXPECT_EQ(values["prompt_tokens_total"], 0);
  EXPECT_EQ(values["requests_finished_total generate failed"], 1);
}

TEST_F(WorkerMetricsTest, CountsWhatIsFetched) {
  Start({.mode = FileWeightSource::Mode::kStreamed});
  auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(session_->Submit(Generate(3), answer).ok());
  ASSERT_TRUE(answer->Wait().ok());
  auto values = Values();
  const Placement& placement = model_->engine->placement();
  EXPECT_EQ(values["weight_bytes resident"], static_cast<double>(placement.resident_bytes));
  EXPECT_GT(values["link_bytes_total host"], 0);
  EXPECT_LE(values["link_bytes_total host"], values["weight_bytes resident"]);
  EXPECT_GT(values["lane_busy_seconds_total copy"], 0);
}

TEST_F(WorkerMetricsTest, CountsExpertsInTheHostsCache) {
  Start({.mode = FileWeightSource::Mode::kStreamed, .host_cache = uint64_t{1} << 30}, {},
        kExpertModel);
  auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(session_->Submit(Generate(9), answer).ok());
  ASSERT_TRUE(answer->Wait().ok());
  auto values = Values();
  EXPECT_GT(values["weight_bytes cached"], 0);
  EXPECT_GT(values["memory_bytes host cache of experts"], 0);
  EXPECT_GT(values["host_expert_hits_total"], 0);
  EXPECT_GT(values["host_expert_misses_total"], 0);
  EXPECT_GT(values["host_expert_bytes_total"], values["host_expert_misses_total"]);
  EXPECT_LE(values["host_expert_bytes_total"], values["weight_bytes cached"]);
  EXPECT_GE(values["link_bytes_total host"], values["host_expert_bytes_total"]);
  EXPECT_EQ(values["expert_misses_total"], 0);
}

TEST_F(WorkerMetricsTest, BeforeThereIsAWorkerOnlyTheSourceShows) {
  metrics_.source_counters().attach_failures = 3;
  auto values = Values();
  EXPECT_EQ(values["weights_attached"], 0);
  EXPECT_EQ(values["weights_attach_failures_total"], 3);
  EXPECT_EQ(values["requests_running"], 0);
  EXPECT_FALSE(values.contains("memory_budget_bytes"));
}

}  // namespace
}  // namespace gguf_offload
