#include "computed/session/sequence.h"

#include <utility>

#include "absl/time/clock.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Sequence>> Sequence::Create(
    uint64_t id, Request request, std::shared_ptr<RequestObserver> observer,
    const Tokenizer* tokenizer, SessionEvents& events) {
  absl::StatusOr<Sampler> sampler = Sampler::Create(request.sampling);
  if (!sampler.ok()) return sampler.status();
  for (int32_t token : request.prompt) sampler->Accept(token);
  return std::unique_ptr<Sequence>(new Sequence(id, std::move(request), std::move(observer),
                                                *std::move(sampler), tokenizer, events));
}

Sequence::Sequence(uint64_t id, Request request, std::shared_ptr<RequestObserver> observer,
                   Sampler sampler, const Tokenizer* tokenizer, SessionEvents& events)
    : submitted(absl::Now()),
      last_progress(submitted),
      id_(id),
      request_(std::move(request)),
      observer_(std::move(observer)),
      tokenizer_(tokenizer),
      events_(events),
      sampler_(std::move(sampler)),
      tokens_(request_.prompt) {
  if (tokenizer_ != nullptr) {
    text_.emplace(tokenizer_, TextStreamOptions{.stop_strings = request_.stop});
  }
}

bool Sequence::WantsLogits(int position) const {
  return request_.kind == Request::Kind::kEvaluate ||
         position == static_cast<int>(tokens_.size()) - 1;
}

bool Sequence::WantsLogitValues() const {
  return request_.kind == Request::Kind::kEvaluate || request_.top_logprobs >= 0 ||
         !sampler_.TakesLargest();
}

void Sequence::TakeLogits(int position, const RowLogits& row) {
  if (ended() || unusable_position_.has_value()) return;
  if (row.largest < 0) {
    unusable_position_ = position;
    return;
  }
  if (request_.kind == Request::Kind::kEvaluate) {
    observer_->OnLogits(position, row.values);
    return;
  }
  // The sampler works on the logits themselves; what is reported is what the model said.
  std::vector<float> untouched;
  if (request_.top_logprobs >= 0) untouched.assign(row.values.begin(), row.values.end());
  const int32_t token = sampler_.TakesLargest() ? row.largest : sampler_.Sample(row.values);
  sampler_.Accept(token);
  AppendToken(token, untouched);
}

void Sequence::AppendToken(int32_t token, std::span<const float> logits) {
  const absl::Time token_before = std::exchange(last_token_, absl::Now());
  if (first_token_ == absl::InfiniteFuture()) first_token_ = last_token_;
  tokens_.push_back(token);

  const bool end_of_text =
      tokenizer_ != nullptr && tokenizer_->IsEndOfGeneration(token) && !request_.ignore_end_of_text;
  if (end_of_text) {
    ended_by_token_ = 1;
    finish_reason_ = FinishReason::kEndOfText;
  } else {
    std::optional<StepLogProbabilities> logprobs;
    if (request_.top_logprobs >= 0) {
      logprobs = LogProbabilities(logits, token, request_.top_logprobs);
    }
    if (generated() == 1) {
      events_.OnFirstToken(last_token_ - submitted);
    } else {
      events_.OnNextToken(last_token_ - token_before);
    }
    std::string text = text_.has_value() ? text_->Push(token) : std::string();
    observer_->OnToken(token, std::move(text), std::move(logprobs));
    if (text_.has_value() && text_->stopped()) {
      finish_reason_ = FinishReason::kStop;
    } else if (generated() >= request_.max_tokens) {
      finish_reason_ = FinishReason::kLength;
    }
  }
  if (finish_reason_ == FinishReason::kNone) return;
  if (text_.has_value() && finish_reason_ != FinishReason::kStop) {
    std::string rest = text_->Flush();
    if (!rest.empty()) observer_->OnFinalText(std::move(rest));
    if (text_->stopped()) finish_reason_ = FinishReason::kStop;
  }
  End(absl::OkStatus());
}

void Sequence::Advance(int rows) {
  processed_ += rows;
  if (unusable_position_.has_value()) return;
  if (request_.kind == Request::Kind::kEvaluate && remaining() == 0) End(absl::OkStatus());
}

void Sequence::End(absl::Status status) {
  if (!ended()) end_status_ = std::move(status);
}

void Sequence::Report() {
  RequestResult result;
  result.finish_reason = finish_reason_;
  result.prompt_tokens = static_cast<int>(request_.prompt.size());
  result.generated_tokens = generated() - ended_by_token_;
  const absl::Time admitted_at = std::min(admitted, absl::Now());
  result.queued = admitted_at - submitted;
  if (first_token_ != absl::InfiniteFuture()) {
    result.prefill = first_token_ - admitted_at;
    result.decode = last_token_ - first_token_;
  }
  events_.OnFinished(request_.kind, *end_status_, result, absl::Now() - submitted);
  observer_->OnDone(*end_status_, result);
}

}  // namespace gguf_offload
