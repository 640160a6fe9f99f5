#include "computed/session/inference_session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/fixtures/running_model.h"

namespace gguf_offload {
namespace {

constexpr char kModel[] = "tests/testdata/golden/models/llama-kq.gguf";
const std::vector<int32_t> kPrompt = {509, 10, 45, 300, 7, 128, 400, 260, 33, 71, 501, 2};

// Collects a request's answers and lets tests wait for them.
class Collector : public RequestObserver {
 public:
  void OnToken(int32_t token, std::string, std::optional<StepLogProbabilities> logprobs) override {
    absl::MutexLock lock(&mutex_);
    tokens_.push_back(token);
    if (logprobs.has_value()) logprobs_.push_back(*logprobs);
  }
  void OnLogits(int position, std::span<const float> logits) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_EQ(position, static_cast<int>(rows_.size()));
    rows_.emplace_back(logits.begin(), logits.end());
  }
  bool Ready() override {
    absl::MutexLock lock(&mutex_);
    return ready_;
  }
  void OnDone(const absl::Status& status, const RequestResult& result) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(done_);
    done_ = true;
    status_ = status;
    result_ = result;
  }

  void SetReady(bool ready) {
    absl::MutexLock lock(&mutex_);
    ready_ = ready;
  }
  absl::Status Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
    return status_;
  }
  void WaitForTokens(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, count] { return done_ || tokens_.size() >= count; };
    mutex_.Await(absl::Condition(&there));
  }
  std::vector<int32_t> tokens() {
    absl::MutexLock lock(&mutex_);
    return tokens_;
  }
  std::vector<std::vector<float>> rows() {
    absl::MutexLock lock(&mutex_);
    return rows_;
  }
  RequestResult result() {
    absl::MutexLock lock(&mutex_);
    return result_;
  }
  std::vector<StepLogProbabilities> logprobs() {
    absl::MutexLock lock(&mutex_);
    return logprobs_;
  }

 private:
  absl::Mutex mutex_;
  bool ready_ = true;
  bool done_ = false;
  absl::Status status_;
  RequestResult result_;
  std::vector<int32_t> tokens_;
  std::vector<std::vector<float>> rows_;
  std::vector<StepLogProbabilities> logprobs_;
};

class InferenceSessionTest : public ::testing::Test {
 protected:
  void Start(InferenceSessionOptions options = {}, const std::string& path = kModel) {
    auto model = RunningModel::Create(path, {.activations = ActivationPrecision::kInt8,
                                             .kv_pages = std::max(64, options.kv_pages)});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    options.vocabulary = model_->architecture->shape().vocabulary;
    if (options.context_tokens == 0) options.context_tokens = 1024;
    if (options.kv_pages == 0) options.kv_pages = 64;
    options.step_tokens = 64;
    session_ = std::make_unique<InferenceSession>(
        options, *model_->forward, /*tokenizer=*/nullptr,
        [this] { return model_->source->CheckIntact(); }, /*trace=*/nullptr);
  }

  static Request Generate(std::vector<int32_t> prompt, int max_tokens) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    return request;
  }

  std::vector<int32_t> Alone(const Request& request) {
    auto collector = std::make_shared<Collector>();
    EXPECT_TRUE(session_->Submit(request, collector).ok());
    EXPECT_TRUE(collector->Wait().ok());
    return collector->tokens();
  }

  // Polls, since pages are freed just after an observer's last call.
  void ExpectNothingHeld() {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (session_->kv_pages_used() > 0 && absl::Now() < deadline) std::this_thread::yield();
    EXPECT_EQ(session_->kv_pages_used(), 0);
    EXPECT_TRUE(session_->List().empty());
  }

  std::unique_ptr<RunningModel> model_;
  std::unique_ptr<InferenceSession> session_;
};

TEST_F(InferenceSessionTest, RequestsTogetherAnswerAsAlone) {
  Start();
  std::vector<Request> requests;
  for (int i = 0; i < 12; ++i) {
    std::vector<int32_t> prompt(kPrompt.begin(), kPrompt.begin() + 1 + i);
    // Long prompts too, which are processed in pieces beside the others' decodes.
    for (int j = 0; i % 4 == 3 && j < 90; ++j) prompt.push_back((j * 37 + i) % 500);
    requests.push_back(Generate(prompt, 5 + 3 * (i % 5)));
    if (i % 2 == 1) {
      requests.back().sampling.temperature = 0.8f;
      requests.back().sampling.seed = 1000 + i;
    }
  }
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) alone.push_back(Alone(request));

  std::vector<std::shared_ptr<Collector>> collectors;
  for (const Request& request : requests) {
    collectors.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(session_->Submit(request, collectors.back()).ok());
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(collectors[i]->Wait().ok());
    EXPECT_EQ(collectors[i]->tokens(), alone[i]) << i;
    EXPECT_EQ(collectors[i]->tokens().size(), static_cast<size_t>(requests[i].max_tokens));
    const RequestResult result = collectors[i]->result();
    EXPECT_EQ(result.finish_reason, FinishReason::kLength);
    EXPECT_EQ(result.prompt_tokens, static_cast<int>(requests[i].prompt.size()));
    EXPECT_EQ(result.generated_tokens, requests[i].max_tokens);
  }
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, EvaluatesEveryPosition) {
  Start();
  Request request;
  request.kind = Request::Kind::kEvaluate;
  for (int i = 0; i < 200; ++i) request.prompt.push_back((i * 31) % 500);
  auto collector = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(request, collector).ok());
  EXPECT_TRUE(collector->Wait().ok());
  const auto rows = collector->rows();
  ASSERT_EQ(rows.size(), request.prompt.size());
  // The last row must choose what Generate chooses.
  const std::vector<int32_t> next = Alone(Generate(request.prompt, 1));
  EXPECT_EQ(std::max_element(rows.back().begin(), rows.back().end()) - rows.back().begin(),
            next.at(0));
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, AnObserverThatIsNotReadyStopsOnlyItself) {
  Start();
  Request request;
  request.kind = Request::Kind::kEvaluate;
  request.prompt = kPrompt;
  auto slow = std::make_shared<Collector>();
  slow->SetReady(false);
  ASSERT_TRUE(session_->Submit(request, slow).ok());
  EXPECT_EQ(Alone(Generate(kPrompt, 4)).size(), 4u);
  EXPECT_TRUE(slow->rows().empty());
  slow->SetReady(true);
  session_->Wake();
  EXPECT_TRUE(slow->Wait().ok());
  EXPECT_EQ(slow->rows().size(), kPrompt.size());
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, AnObserverThatStaysUnreadyIsDropped) {
  Start({.stall_timeout = absl::Milliseconds(50)});
  Request request;
  request.kind = Request::Kind::kEvaluate;
  request.prompt = kPrompt;
  auto stalled = std::make_shared<Collector>();
  stalled->SetReady(false);
  ASSERT_TRUE(session_->Submit(request, stalled).ok());
  EXPECT_EQ(stalled->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, CancelFreesEverything) {
  Start();
  auto collector = std::make_shared<Collector>();
  auto id = session_->Submit(Generate(kPrompt, 900), collector);
  ASSERT_TRUE(id.ok());
  collector->WaitForTokens(3);
  EXPECT_GT(session_->kv_pages_used(), 0);
  session_->Cancel(*id);
  EXPECT_EQ(collector->Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_LT(collector->tokens().size(), 900u);
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, DeadlineEndsRunningAndWaitingRequests) {
  Start({.max_sequences = 1});
  Request endless = Generate(kPrompt, 1000);
  endless.deadline = absl::Now() + absl::Milliseconds(100);
  Request waiting = Generate(kPrompt, 1000);
  waiting.deadline = absl::Now() + absl::Milliseconds(50);
  auto first = std::make_shared<Collector>(), second = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(endless, first).ok());
  ASSERT_TRUE(session_->Submit(waiting, second).ok());
  EXPECT_EQ(second->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  const absl::StatusCode code = first->Wait().code();
  EXPECT_TRUE(code == absl::StatusCode::kDeadlineExceeded || first->tokens().size() == 1000u);
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, AFullQueueTurnsAway) {
  Start({.max_sequences = 1, .max_waiting = 2});
  auto running = std::make_shared<Collector>();
  auto id = session_->Submit(Generate(kPrompt, 1000), running);
  ASSERT_TRUE(id.ok());
  running->WaitForTokens(1);  // so it has left the queue
  std::vector<std::shared_ptr<Collector>> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(session_->Submit(Generate(kPrompt, 2), waiting.back()).ok());
  }
  auto refused = std::make_shared<Collector>();
  EXPECT_EQ(session_->Submit(Generate(kPrompt, 2), refused).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_GE(session_->RetryDelay(), absl::Milliseconds(100));
  session_->Cancel(*id);
  for (auto& collector : waiting) EXPECT_TRUE(collector->Wait().ok());
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, RequestsWaitForKvPages) {
  // 4 pages: 128 tokens. Each request needs 3 of them.
  Start({.context_tokens = 128, .kv_pages = 4});
  std::vector<std::shared_ptr<Collector>> collectors;
  for (int i = 0; i < 4; ++i) {
    collectors.push_back(std::make_shared<Collector>());
    ASSERT_TRUE(session_->Submit(Generate(kPrompt, 70), collectors.back()).ok());
  }
  for (auto& collector : collectors) {
    EXPECT_TRUE(collector->Wait().ok());
    EXPECT_EQ(collector->tokens(), collectors[0]->tokens());
  }
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, RefusesWhatCannotRun) {
  Start({.context_tokens = 64, .kv_pages = 2});
  const auto code = [&](Request request) {
    return session_->Submit(std::move(request), std::make_shared<Collector>()).status().code();
  };
  EXPECT_EQ(code(Generate({}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Generate({512}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Generate({-1}, 1)), absl::StatusCode::kInvalidArgument);
  // No room for an answer.
  EXPECT_EQ(code(Generate(std::vector<int32_t>(64, 1), 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Generate(std::vector<int32_t>(65, 1), 1)), absl::StatusCode::kInvalidArgument);
  Request nan = Generate(kPrompt, 1);
  nan.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(code(nan), absl::StatusCode::kInvalidArgument);
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, AnswersEndWhereThereIsNoMoreRoom) {
  // 3 pages hold 96 tokens, the context 80; then one page less.
  for (const auto& [pages, room] : {std::pair(3, 80), std::pair(2, 64)}) {
    session_.reset();
    Start({.context_tokens = 80, .kv_pages = pages});
    for (const int max_tokens : {room - 12, room - 11, 1000, INT32_MAX}) {
      auto collector = std::make_shared<Collector>();
      ASSERT_TRUE(session_->Submit(Generate(kPrompt, max_tokens), collector).ok());
      ASSERT_TRUE(collector->Wait().ok());
      EXPECT_EQ(collector->tokens().size(), static_cast<size_t>(room) - kPrompt.size());
      EXPECT_EQ(collector->result().finish_reason, FinishReason::kLength);
    }
    ExpectNothingHeld();
  }
}

TEST_F(InferenceSessionTest, WhoAsksForAllLeavesPagesToOthers) {
  Start({.context_tokens = 1 << 20, .kv_pages = 4 * kMostUnaskedTokens / 32});
  auto endless = std::make_shared<Collector>();
  auto id = session_->Submit(Generate(kPrompt, INT32_MAX), endless);
  ASSERT_TRUE(id.ok());
  endless->WaitForTokens(1);
  EXPECT_LE(session_->kv_pages_used(), kMostUnaskedTokens / 32 + 1);
  EXPECT_EQ(Alone(Generate(kPrompt, 3)).size(), 3u);
  session_->Cancel(*id);
  EXPECT_TRUE(absl::IsCancelled(endless->Wait()));
}

// Not among what the model answers below.
constexpr int kPoison = 333;

// A model in which the embedding of kPoison is not a number.
std::string PoisonedModel() {
  const std::string path = ::testing::TempDir() + "/poisoned.gguf";
  const std::string good = "tests/testdata/golden/models/llama-f32.gguf";
  std::filesystem::copy_file(good, path, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  auto source = FileWeightSource::Open(good, FileWeightSource::Mode::kShared);
  EXPECT_TRUE(source.ok());
  for (const v1::TensorInfo& tensor : (*source)->manifest().tensors()) {
    if (tensor.name() != "token_embd.weight") continue;
    EXPECT_EQ(tensor.type_name(), "F32");
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    file.seekp(tensor.offset() + kPoison * tensor.dimensions(0) * sizeof(float));
    file.write(reinterpret_cast<const char*>(&nan), sizeof nan);
    return path;
  }
  ADD_FAILURE();
  return path;
}

TEST_F(InferenceSessionTest, LogitsThatAreNotNumbersEndTheirRequestOnly) {
  std::atomic<int> verified = 0;
  absl::Status verdict;
  Start({.verify_weights = [&]() -> absl::Status { return ++verified, verdict; }}, PoisonedModel());
  const std::vector<int32_t> healthy = {5, 6, 8, 9}, poisoned = {5, 6, kPoison, 9};
  const std::vector<int32_t> expected = Alone(Generate(healthy, 30));
  auto good = std::make_shared<Collector>(), bad = std::make_shared<Collector>();
  Request sampled = Generate(poisoned, 30);
  sampled.sampling.temperature = 1;
  ASSERT_TRUE(session_->Submit(Generate(healthy, 30), good).ok());
  ASSERT_TRUE(session_->Submit(sampled, bad).ok());
  const absl::Status failed = bad->Wait();
  EXPECT_TRUE(absl::IsInternal(failed)) << failed;
  EXPECT_NE(std::string(failed.message()).find("step "), std::string::npos) << failed;
  EXPECT_TRUE(bad->tokens().empty());
  EXPECT_TRUE(good->Wait().ok());
  EXPECT_EQ(good->tokens(), expected);

  Request evaluate = Generate(poisoned, 0);
  evaluate.kind = Request::Kind::kEvaluate;
  auto rows = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(evaluate, rows).ok());
  EXPECT_TRUE(absl::IsInternal(rows->Wait()));
  EXPECT_EQ(rows->rows().size(), 2u);  // those before
  EXPECT_EQ(verified, 1);              // the first time only
  ExpectNothingHeld();

  session_.reset();
  verdict = absl::DataLossError("tensor x has changed");
  Start({.verify_weights = [&]() -> absl::Status { return ++verified, verdict; }}, PoisonedModel());
  auto damaged = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(Generate(poisoned, 3), damaged).ok());
  EXPECT_EQ(damaged->Wait(), verdict);
  EXPECT_EQ(verified, 2);
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, DamagedWeightsGiveNoToken) {
  Start();
  model_->source->SetIntact(absl::DataLossError("file shrank"));
  auto collector = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(Generate(kPrompt, 5), collector).ok());
  EXPECT_EQ(collector->Wait().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(collector->tokens().empty());
  ExpectNothingHeld();
}

TEST_F(InferenceSessionTest, DrainFinishesWhatIsThereAndTakesNoMore) {
  Start();
  auto collector = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(Generate(kPrompt, 20), collector).ok());
  EXPECT_TRUE(session_->Drain(absl::InfiniteFuture()));
  EXPECT_TRUE(collector->Wait().ok());
  EXPECT_EQ(collector->tokens().size(), 20u);
  EXPECT_EQ(session_->Submit(Generate(kPrompt, 1), collector).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(InferenceSessionTest, StoppingEndsWhatIsThere) {
  Start();
  auto collector = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(Generate(kPrompt, 1000), collector).ok());
  collector->WaitForTokens(1);
  session_.reset();
  EXPECT_EQ(collector->Wait().code(), absl::StatusCode::kCancelled);
}

TEST_F(InferenceSessionTest, LogProbabilitiesAreTheModelsOwn) {
  Start();
  Request request = Generate(kPrompt, 6);
  request.top_logprobs = 3;
  request.sampling.repetition_penalty = 1.5f;
  auto collector = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(request, collector).ok());
  ASSERT_TRUE(collector->Wait().ok());
  const auto logprobs = collector->logprobs();
  ASSERT_EQ(logprobs.size(), 6u);

  Request evaluate;
  evaluate.kind = Request::Kind::kEvaluate;
  evaluate.prompt = kPrompt;
  const std::vector<int32_t> tokens = collector->tokens();
  evaluate.prompt.insert(evaluate.prompt.end(), tokens.begin(), tokens.end());
  auto rows = std::make_shared<Collector>();
  ASSERT_TRUE(session_->Submit(evaluate, rows).ok());
  ASSERT_TRUE(rows->Wait().ok());
  const std::vector<std::vector<float>> all_rows = rows->rows();
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const std::vector<float>& row = all_rows[kPrompt.size() - 1 + i];
    const float largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (float logit : row) sum += std::exp(double{logit} - largest);
    const double expected = row[tokens[i]] - largest - std::log(sum);
    EXPECT_EQ(logprobs[i].chosen.token, tokens[i]);
    EXPECT_NEAR(logprobs[i].chosen.log_probability, expected, 1e-4);
    ASSERT_EQ(logprobs[i].top.size(), 3u);
    EXPECT_NEAR(logprobs[i].top[0].log_probability, -std::log(sum), 1e-4);
  }
}

}  // namespace
}  // namespace gguf_offload
