#include "computed/service/generate_call.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "computed/service/literal_ranges.h"

namespace gguf_offload {
namespace {

constexpr int kDefaultMaxTokens = 256;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxTopLogprobs = 20;
constexpr int kDefaultPenaltyWindow = 64;
// Logits of one message: 2 MiB, within gRPC's default limit.
constexpr size_t kLogitsPerMessage = 512 << 10;

uint64_t RandomSeed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

SamplingOptions ToSampling(const v1::SamplingOptions& options) {
  SamplingOptions sampling;
  sampling.temperature = options.temperature();
  sampling.top_k = options.top_k();
  // Absent fields are zero; for these two that means off.
  sampling.top_p = options.top_p() == 0 ? 1 : options.top_p();
  sampling.repetition_penalty =
      options.repetition_penalty() == 0 ? 1 : options.repetition_penalty();
  sampling.min_p = options.min_p();
  sampling.frequency_penalty = options.frequency_penalty();
  sampling.presence_penalty = options.presence_penalty();
  sampling.penalty_window =
      options.penalty_window() == 0 ? kDefaultPenaltyWindow : options.penalty_window();
  sampling.seed = options.has_seed() ? options.seed() : RandomSeed();
  return sampling;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return v1::FINISH_REASON_END_OF_TEXT;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kNone:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void SetLogprob(const TokenLogProbability& entry, v1::TokenLogprob& out) {
  out.set_token(entry.token);
  out.set_logprob(entry.log_probability);
}

}  // namespace

absl::StatusOr<Request> ToRequest(const v1::GenerateRequest& request, const Worker& worker) {
  Request result;
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kTokens:
      result.prompt.assign(request.tokens().ids().begin(), request.tokens().ids().end());
      break;
    case v1::GenerateRequest::kText:
      if (worker.tokenizer == nullptr) return worker.tokenizer_error;
      if (auto literal = LiteralRanges(request.literal(), request.text().size()); literal.ok()) {
        result.prompt = worker.tokenizer->Encode(
            request.text(),
            {.add_bos = true, .parse_special = !request.plain_text(), .literal = *literal});
      } else {
        return literal.status();
      }
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return absl::InvalidArgumentError("the request has no prompt");
  }
  if (request.max_tokens() < 0) return absl::InvalidArgumentError("max_tokens is negative");
  if (request.stop_size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxStopStrings, " stop strings"));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a stop string of ", stop.size(), " bytes, not 1 to ", kMaxStopBytes));
    }
  }
  if (request.top_logprobs() < 0 || request.top_logprobs() > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_logprobs is not within 0 to ", kMaxTopLogprobs));
  }
  result.max_tokens = request.max_tokens();
  if (result.max_tokens == 0) {
    const int room = worker.context_tokens - static_cast<int>(result.prompt.size());
    result.max_tokens = std::clamp(room, 1, kDefaultMaxTokens);
  }
  result.sampling = ToSampling(request.sampling());
  result.stop.assign(request.stop().begin(), request.stop().end());
  result.top_logprobs = request.top_logprobs() > 0 ? request.top_logprobs() : -1;
  result.ignore_end_of_text = request.ignore_end_of_text();
  return result;
}

absl::StatusOr<Request> ToRequest(const v1::EvaluateRequest& request) {
  Request result;
  result.kind = Request::Kind::kEvaluate;
  result.prompt.assign(request.tokens().ids().begin(), request.tokens().ids().end());
  return result;
}

void GenerateCall::Queue(v1::GenerateResponse response) {
  // Tokens that wait for a slow client travel together.
  Send(std::move(response), [](v1::GenerateResponse& last, v1::GenerateResponse& next) {
    last.mutable_text()->append(next.text());
    last.mutable_tokens()->MergeFrom(next.tokens());
    last.mutable_logprobs()->MergeFrom(next.logprobs());
    if (next.has_result()) last.mutable_result()->Swap(next.mutable_result());
    return true;
  });
}

void GenerateCall::OnToken(int32_t token, std::string text,
                           std::optional<StepLogProbabilities> logprobs) {
  v1::GenerateResponse response;
  response.set_text(std::move(text));
  response.add_tokens(token);
  if (logprobs.has_value()) {
    v1::TokenLogprobs& out = *response.add_logprobs();
    SetLogprob(logprobs->chosen, *out.mutable_chosen());
    for (const TokenLogProbability& entry : logprobs->top) SetLogprob(entry, *out.add_top());
  }
  Queue(std::move(response));
}

void GenerateCall::OnFinalText(std::string text) {
  v1::GenerateResponse response;
  response.set_text(std::move(text));
  Queue(std::move(response));
}

void GenerateCall::OnDone(const absl::Status& status, const RequestResult& result) {
  LogEnd(LogLevel::kInfo, "generated", status, result);
  if (status.ok()) {
    v1::GenerateResponse response;
    v1::GenerateResult& out = *response.mutable_result();
    out.set_finish_reason(ToProto(result.finish_reason));
    out.set_prompt_tokens(result.prompt_tokens);
    out.set_generated_tokens(result.generated_tokens);
    out.set_queue_seconds(absl::ToDoubleSeconds(result.queued));
    out.set_prefill_seconds(absl::ToDoubleSeconds(result.prefill));
    out.set_decode_seconds(absl::ToDoubleSeconds(result.decode));
    if (seed_.has_value()) out.set_seed(*seed_);
    Queue(std::move(response));
  }
  End(status);
}

void EvaluateCall::OnLogits(int position, std::span<const float> logits) {
  v1::EvaluateResponse response;
  response.set_position(position);
  if (request_.logprobs() && position + 1 < request_.tokens().ids_size()) {
    const int32_t next = request_.tokens().ids(position + 1);
    response.set_next_logprob(LogProbabilities(logits, next, 0).chosen.log_probability);
  }
  const auto keep_apart = [](v1::EvaluateResponse&, v1::EvaluateResponse&) { return false; };
  if (!request_.logits()) {
    Send(std::move(response), keep_apart);
    return;
  }
  for (size_t first = 0; first < logits.size(); first += kLogitsPerMessage) {
    const auto piece = logits.subspan(first, std::min(kLogitsPerMessage, logits.size() - first));
    response.set_first(static_cast<int32_t>(first));
    response.mutable_logits()->Assign(piece.begin(), piece.end());
    Send(std::move(response), keep_apart);
    response.Clear();
    response.set_position(position);
  }
}

void EvaluateCall::OnDone(const absl::Status& status, const RequestResult& result) {
  LogEnd(LogLevel::kInfo, "evaluated", status, result);
  End(status);
}

}  // namespace gguf_offload
