// The two streamed methods of InferenceService: request in, answers out.
#ifndef COMPUTED_SERVICE_GENERATE_CALL_H_
#define COMPUTED_SERVICE_GENERATE_CALL_H_

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "computed/service/answer_stream.h"
#include "computed/service/worker.h"
#include "gguf_offload/v1/inference.pb.h"

namespace gguf_offload {

// Checks and translates; errors are INVALID_ARGUMENT or, without a tokenizer, UNIMPLEMENTED.
absl::StatusOr<Request> ToRequest(const v1::GenerateRequest& request, const Worker& worker);
absl::StatusOr<Request> ToRequest(const v1::EvaluateRequest& request);

class GenerateCall : public AnswerStream<v1::GenerateResponse> {
 public:
  // `seed` is told in the result, if there is one.
  GenerateCall(InferenceSession& session, CallGate::Pass pass, std::optional<uint64_t> seed)
      : AnswerStream(session, std::move(pass)), seed_(seed) {}

  void OnToken(int32_t token, std::string text,
               std::optional<StepLogProbabilities> logprobs) override;
  void OnFinalText(std::string text) override;
  void OnDone(const absl::Status& status, const RequestResult& result) override;
  using AnswerStream::OnDone;

 private:
  void Queue(v1::GenerateResponse response);

  const std::optional<uint64_t> seed_;
};

class EvaluateCall : public AnswerStream<v1::EvaluateResponse> {
 public:
  EvaluateCall(InferenceSession& session, CallGate::Pass pass, const v1::EvaluateRequest& request)
      : AnswerStream(session, std::move(pass)), request_(request) {}

  void OnLogits(int position, std::span<const float> logits) override;
  void OnDone(const absl::Status& status, const RequestResult& result) override;
  using AnswerStream::OnDone;

 private:
  const v1::EvaluateRequest request_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_GENERATE_CALL_H_
