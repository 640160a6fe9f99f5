// What a session is asked to do, and how it answers.
#ifndef COMPUTED_SESSION_REQUEST_H_
#define COMPUTED_SESSION_REQUEST_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "computed/sampler/log_probabilities.h"
#include "computed/sampler/sampler.h"

namespace gguf_offload {

struct Request {
  enum class Kind { kGenerate, kEvaluate };
  Kind kind = Kind::kGenerate;
  std::vector<int32_t> prompt;  // token ids within the vocabulary; not empty
  absl::Time deadline = absl::InfiniteFuture();
  std::string peer;  // shown in ListSessions
  std::string id;    // for logs, here and at the weight daemon

  // Generate only.
  int max_tokens = 0;  // > 0
  SamplingOptions sampling;
  std::vector<std::string> stop;
  int top_logprobs = -1;  // -1: no log probabilities
  bool ignore_end_of_text = false;
};

enum class FinishReason { kNone, kEndOfText, kStop, kLength };

struct RequestResult {
  FinishReason finish_reason = FinishReason::kNone;
  int prompt_tokens = 0;
  int generated_tokens = 0;
  absl::Duration queued;
  absl::Duration prefill;
  absl::Duration decode;
};

// Receives a request's answers, on the session's thread: implementations must be quick and must not
// call back into the session except for InferenceSession::Wake.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;
  // Generate: a token has been chosen; `text` is what has become certain.
  virtual void OnToken(int32_t token, std::string text,
                       std::optional<StepLogProbabilities> logprobs) {}
  // Generate: text that was held back until the end.
  virtual void OnFinalText(std::string text) {}
  // Evaluate: the logits (vocabulary) of one position, in order.
  virtual void OnLogits(int position, std::span<const float> logits) {}
  // Whether more logits can be taken now. After saying no, call InferenceSession::Wake once they
  // can.
  virtual bool Ready() { return true; }
  // The last call.
  virtual void OnDone(const absl::Status& status, const RequestResult& result) = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_REQUEST_H_
