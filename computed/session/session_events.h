// What happens to the requests of a session, for those who count it.
#ifndef COMPUTED_SESSION_SESSION_EVENTS_H_
#define COMPUTED_SESSION_SESSION_EVENTS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "computed/session/request.h"

namespace gguf_offload {

// Called from the session's thread and from those that submit, some of them with the session's lock
// held: implementations are quick, thread safe, and do not call the session. What concerns one
// request is told here before its observer is told, so that whoever has an answer finds it counted.
class SessionEvents {
 public:
  // Why a request was turned away before it was a request of the session.
  enum class Rejection {
    kInvalid,      // options or tokens out of range
    kTooLong,      // longer than the context or the KV cache
    kQueueFull,    // as many requests wait as may
    kClientLimit,  // as many calls of this client run as may
    kDraining,     // the worker stops
  };

  struct Step {
    absl::Status status;
    absl::Duration took;
    int prompt_tokens = 0;  // rows that were tokens of prompts
    int decode_tokens = 0;  // rows that were tokens generated before
  };

  virtual ~SessionEvents() = default;
  virtual void OnRejected(Rejection why) {}
  // A request has left the queue and runs.
  virtual void OnAdmitted(absl::Duration queued) {}
  virtual void OnStep(const Step& step) {}
  // The logits of a request were not numbers: it fails.
  virtual void OnUnusableLogits() {}
  // Generate: a token for the client has been chosen, the first after this long since the request
  // was submitted, or another after this long since the one before.
  virtual void OnFirstToken(absl::Duration since_submitted) {}
  virtual void OnNextToken(absl::Duration since_last) {}
  // A request that had been submitted is over, `total` after it was.
  virtual void OnFinished(Request::Kind kind, const absl::Status& status,
                          const RequestResult& result, absl::Duration total) {}

  // One that nobody listens to.
  static SessionEvents& Nobody() {
    static SessionEvents nobody;
    return nobody;
  }
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_SESSION_EVENTS_H_
