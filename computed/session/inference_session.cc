#include "computed/session/inference_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "kernels/attention/kv_cache.h"

namespace gguf_offload {
InferenceSession::InferenceSession(InferenceSessionOptions options, ForwardPass& forward,
                                   const Tokenizer* tokenizer,
                                   std::function<absl::Status()> check_weights, Trace* trace)
    : options_(options),
      forward_(forward),
      tokenizer_(tokenizer),
      check_weights_(std::move(check_weights)),
      trace_(trace),
      events_(options_.events != nullptr ? *options_.events : SessionEvents::Nobody()),
      pages_(options.kv_pages),
      thread_([this] { Loop(); }) {}

InferenceSession::~InferenceSession() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    stopping_ = true;
  }
  thread_.join();
  if (verifying_.joinable()) verifying_.join();
}

absl::Status InferenceSession::Fit(Request& request, SessionEvents::Rejection* why) const {
  const auto error = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (request.prompt.empty()) return error("the prompt has no tokens");
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= options_.vocabulary) {
      return error("token ", token, " is not within the vocabulary of ", options_.vocabulary);
    }
  }
  *why = SessionEvents::Rejection::kTooLong;
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool generates = request.kind == Request::Kind::kGenerate;
  const int64_t pool = int64_t{options_.kv_pages} * kPageTokens;
  // Something is generated, or the request makes no sense.
  const int64_t least = prompt + (generates ? 1 : 0);
  if (least > options_.context_tokens) {
    return error(prompt, " prompt tokens", generates ? " and one to generate" : "",
                 " exceed the context of ", options_.context_tokens, " tokens");
  }
  if (least > pool) {
    return error("the request needs ", (least + kPageTokens - 1) / kPageTokens,
                 " KV cache pages of ", options_.kv_pages, " there are");
  }
  if (!generates) return absl::OkStatus();
  const int64_t room = std::min<int64_t>(options_.context_tokens, pool) - prompt;
  if (request.max_tokens > room) {
    // Whoever asks for more than there is asks for as much as possible; pages for all of it would
    // leave none for others.
    request.max_tokens = static_cast<int>(std::min<int64_t>(room, kMostUnaskedTokens));
  }
  return absl::OkStatus();
}

int InferenceSession::PagesFor(const Request& request) const {
  // The last generated token is never fed back, but a page is the unit anyway.
  return (static_cast<int>(request.prompt.size()) + request.max_tokens + kPageTokens - 1) /
         kPageTokens;
}

absl::StatusOr<uint64_t> InferenceSession::Submit(Request request,
                                                  std::shared_ptr<RequestObserver> observer) {
  auto why = SessionEvents::Rejection::kInvalid;
  absl::StatusOr<uint64_t> id = Enqueue(std::move(request), std::move(observer), &why);
  if (!id.ok()) events_.OnRejected(why);
  return id;
}

absl::StatusOr<uint64_t> InferenceSession::Enqueue(Request request,
                                                   std::shared_ptr<RequestObserver> observer,
                                                   SessionEvents::Rejection* why) {
  if (absl::Status status = Fit(request, why); !status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  *why = SessionEvents::Rejection::kDraining;
  if (draining_) return absl::UnavailableError("the worker is draining");
  if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
    *why = SessionEvents::Rejection::kQueueFull;
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", running_.size(),
                                                     " requests are running and ", waiting_.size(),
                                                     " waiting"));
  }
  *why = SessionEvents::Rejection::kInvalid;
  absl::StatusOr<std::unique_ptr<Sequence>> sequence =
      Sequence::Create(next_id_, std::move(request), std::move(observer), tokenizer_, events_);
  if (!sequence.ok()) return sequence.status();
  waiting_.push_back(*std::move(sequence));
  woken_ = true;
  return next_id_++;
}

void InferenceSession::Cancel(uint64_t id, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
  for (auto& sequence : waiting_) {
    if (sequence->id() == id) sequence->abandoned = status;
  }
  for (auto& sequence : running_) {
    if (sequence->id() == id) sequence->abandoned = status;
  }
}

void InferenceSession::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

bool InferenceSession::Drain(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return waiting_.empty() && running_.empty();
  };
  return mutex_.AwaitWithDeadline(absl::Condition(&idle), deadline);
}

absl::Duration InferenceSession::RetryDelay() const {
  absl::MutexLock lock(&mutex_);
  // One place in the queue comes free each time a running request ends.
  const int at_once = std::max<int>(1, running_.size());
  return std::clamp(mean_service_time_ / at_once, absl::Milliseconds(100), absl::Seconds(30));
}

InferenceSession::Load InferenceSession::load() const {
  absl::MutexLock lock(&mutex_);
  return {.running = static_cast<int>(running_.size()),
          .waiting = static_cast<int>(waiting_.size()),
          .kv_pages_used = pages_.total() - pages_.free()};
}

int InferenceSession::kv_pages_used() const {
  absl::MutexLock lock(&mutex_);
  return pages_.total() - pages_.free();
}

std::vector<InferenceSession::Snapshot> InferenceSession::List() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Snapshot> sessions;
  const auto add = [&](const Sequence& sequence, bool waiting) {
    sessions.push_back({.id = sequence.id(),
                        .kind = sequence.request().kind,
                        .waiting = waiting,
                        .prompt_tokens = static_cast<int>(sequence.request().prompt.size()),
                        .processed_tokens = sequence.published.processed,
                        .generated_tokens = sequence.published.generated,
                        .kv_pages = static_cast<int>(sequence.pages.size()),
                        .start = sequence.submitted,
                        .peer = sequence.request().peer});
  };
  for (const auto& sequence : running_) add(*sequence, false);
  for (const auto& sequence : waiting_) add(*sequence, true);
  return sessions;
}

void InferenceSession::Loop() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    DropEnded();
    if (stopping_) return;
    Admit();
    BuildBatch();
    if (batch_.rows() == 0) {
      WaitForWork();
      continue;
    }
    RunStep();
  }
}

void InferenceSession::DropEnded() {
  const absl::Time now = absl::Now();
  const auto end_if_due = [&](Sequence& sequence) {
    if (!sequence.abandoned.ok()) sequence.End(sequence.abandoned);
    if (stopping_) sequence.End(absl::CancelledError("the worker is stopping"));
    if (now >= sequence.request().deadline) {
      sequence.End(absl::DeadlineExceededError("the request's deadline has passed"));
    }
  };
  std::vector<std::unique_ptr<Sequence>> ended;
  for (auto& sequence : running_) {
    if (sequence->unusable_position().has_value() && verdict_.has_value()) {
      sequence->End(UnusableLogits(*sequence));
    }
    end_if_due(*sequence);
    if (now - sequence->last_progress > options_.stall_timeout) {
      sequence->End(absl::DeadlineExceededError("the client has stopped reading"));
    }
    if (!sequence->ended()) continue;
    pages_.Free(sequence->pages);
    const absl::Duration served = now - sequence->admitted;
    mean_service_time_ = 0.8 * mean_service_time_ + 0.2 * served;
    ended.push_back(std::move(sequence));
  }
  std::erase(running_, nullptr);
  for (auto& sequence : waiting_) {
    end_if_due(*sequence);
    if (sequence->ended()) ended.push_back(std::move(sequence));
  }
  std::erase(waiting_, nullptr);
  for (auto& sequence : ended) sequence->Report();
}

void InferenceSession::Admit() {
  while (!waiting_.empty() && static_cast<int>(running_.size()) < options_.max_sequences) {
    Sequence& next = *waiting_.front();
    next.pages = pages_.Allocate(PagesFor(next.request()));
    if (next.pages.empty()) return;  // until others have ended; those behind it wait their turn
    next.admitted = next.last_progress = absl::Now();
    events_.OnAdmitted(next.admitted - next.submitted);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void InferenceSession::AddRows(Sequence& sequence, int rows) {
  const int first = sequence.processed();
  StepBatch::Sequence& part = batch_.sequences.emplace_back();
  part.first_row = batch_.rows();
  part.rows = rows;
  part.first_position = first;
  part.pages = sequence.pages;
  batch_sequences_.push_back(&sequence);
  for (int position = first; position < first + rows; ++position) {
    if (sequence.WantsLogits(position)) {
      batch_.logit_rows.push_back(batch_.rows());
      batch_.logit_values.push_back(sequence.WantsLogitValues());
      logit_owners_.push_back(&sequence);
      logit_positions_.push_back(position);
    }
    batch_.tokens.push_back(sequence.tokens()[position]);
    batch_.positions.push_back(position);
  }
}

void InferenceSession::BuildBatch() {
  batch_.Clear();
  batch_sequences_.clear();
  logit_owners_.clear();
  logit_positions_.clear();
  for (auto& sequence : running_) {
    if (!sequence->in_prompt() && !sequence->unusable_position()) AddRows(*sequence, 1);
  }
  // Beside texts that are being written, prompts get a part of a step, so that the texts flow.
  const int decoding = batch_.rows();
  const int limit =
      decoding == 0 ? options_.step_tokens : decoding + std::max(1, options_.step_tokens / 4);
  int evaluate_room = options_.evaluate_rows;
  const absl::Time now = absl::Now();
  for (auto& sequence : running_) {
    const bool ready = sequence->observer().Ready();
    if (ready) sequence->last_progress = now;
    const int room = std::min(limit, options_.step_tokens) - batch_.rows();
    if (room <= 0 || !ready || !sequence->in_prompt()) continue;
    if (sequence->unusable_position().has_value()) continue;
    int rows = std::min(room, sequence->remaining());
    if (sequence->request().kind == Request::Kind::kEvaluate) {
      rows = std::min(rows, evaluate_room);
      if (rows == 0) continue;
      evaluate_room -= rows;
    }
    AddRows(*sequence, rows);
  }
}

void InferenceSession::WaitForWork() {
  // Sequences whose observers are not ready have deadlines all the same.
  absl::Time wake_up = absl::InfiniteFuture();
  for (const auto& sequence : running_) {
    wake_up = std::min(
        {wake_up, sequence->request().deadline, sequence->last_progress + options_.stall_timeout});
  }
  for (const auto& sequence : waiting_) wake_up = std::min(wake_up, sequence->request().deadline);
  const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || woken_; };
  mutex_.AwaitWithDeadline(absl::Condition(&work), wake_up);
  woken_ = false;
}

void InferenceSession::AnnounceRequests() {
  if (!options_.on_requests) return;
  std::vector<std::string> ids;
  for (const Sequence* sequence : batch_sequences_) {
    if (!sequence->request().id.empty()) ids.push_back(sequence->request().id);
  }
  if (ids == announced_ids_) return;
  announced_ids_ = ids;
  options_.on_requests(std::move(ids));
}

absl::Status InferenceSession::UnusableLogits(const Sequence& sequence) const {
  if (absl::IsDataLoss(*verdict_)) return *verdict_;
  return absl::InternalError(absl::StrCat(
      "step ", sequence.unusable_step,
      " gave logits that are not numbers for the token at position ", *sequence.unusable_position(),
      verdict_->ok() ? ""
                     : absl::StrCat("; the weights could not be verified: ", verdict_->message())));
}

// Notes the sequences that the step had no use for, and has the weights compared if that has not
// been done lately.
void InferenceSession::ExamineLogits() {
  bool found = false;
  for (Sequence* sequence : batch_sequences_) {
    if (!sequence->unusable_position().has_value() || sequence->unusable_step != 0) continue;
    sequence->unusable_step = steps_;
    found = true;
    events_.OnUnusableLogits();
    Log(LogLevel::kError, "logits are not numbers",
        {{"step", steps_},
         {"position", *sequence->unusable_position()},
         {"request", sequence->request().id}});
  }
  if (!found) return;
  if (options_.verify_weights == nullptr) verdict_ = absl::OkStatus();
  if (options_.verify_weights == nullptr || verify_running_ || absl::Now() < verdict_until_) return;
  verdict_.reset();
  verify_running_ = true;
  if (verifying_.joinable()) verifying_.join();  // it has ended
  verifying_ = std::thread([this] {
    absl::Status status = options_.verify_weights();
    Log(status.ok() ? LogLevel::kInfo : LogLevel::kError, "the weights were verified",
        {{"result", status}});
    absl::MutexLock lock(&mutex_);
    verdict_ = std::move(status);
    verdict_until_ = absl::Now() + options_.verify_interval;
    verify_running_ = false;
    woken_ = true;
  });
}

void InferenceSession::RunStep() {
  mutex_.Unlock();
  AnnounceRequests();
  step_start_ = absl::Now();
  ++steps_;
  absl::Status status;
  weights_status_ = absl::OkStatus();
  {
    const Trace::Span span(trace_, "host", "step", batch_.rows());
    status = forward_.Run(batch_, absl::Now() + options_.weights_patience,
                          [this](int index, const RowLogits& row) {
                            // Before any of these logits count.
                            if (index == 0) weights_status_ = check_weights_();
                            if (!weights_status_.ok()) return;
                            const Trace::Span span(trace_, "host", "sample");
                            logit_owners_[index]->TakeLogits(logit_positions_[index], row);
                          });
  }
  if (status.ok()) status = batch_.logit_rows.empty() ? check_weights_() : weights_status_;
  if (absl::IsDeadlineExceeded(status)) {
    // Of the step, not of the requests: their clients may try again.
    status = absl::UnavailableError(status.message());
  }
  mutex_.Lock();
  FinishStep(status);
}

void InferenceSession::FinishStep(const absl::Status& status) {
  SessionEvents::Step step{.status = status, .took = absl::Now() - step_start_};
  for (size_t i = 0; i < batch_sequences_.size(); ++i) {
    Sequence& sequence = *batch_sequences_[i];
    // A prompt's last piece ends with the prompt, so a part is of one kind.
    (sequence.in_prompt() ? step.prompt_tokens : step.decode_tokens) += batch_.sequences[i].rows;
    if (status.ok()) {
      sequence.Advance(batch_.sequences[i].rows);
    } else {
      sequence.End(status);
    }
    sequence.published = {sequence.processed(), sequence.generated()};
  }
  if (status.ok()) ExamineLogits();
  events_.OnStep(step);
}

}  // namespace gguf_offload
