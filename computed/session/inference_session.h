// Runs requests on a model: step after step, each over several sequences.
//
// Requests join and leave at step boundaries. A step takes one token of every sequence that is
// decoding, and fills the rest of its rows with pieces of the prompts that are still being
// processed, oldest first; so long prompts do not stop others' texts. A request is admitted when
// there are KV pages for the longest it can become, so an admitted request never runs out of
// memory. Requests wait in a bounded queue, in order.
//
// Cancelled and expired requests are dropped, with all they hold, at the next step boundary.
//
// Thread safe. One thread of the session's own runs the steps.
#ifndef COMPUTED_SESSION_INFERENCE_SESSION_H_
#define COMPUTED_SESSION_INFERENCE_SESSION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "computed/runtime/page_allocator.h"
#include "computed/runtime/step_batch.h"
#include "computed/runtime/trace.h"
#include "computed/session/forward_pass.h"
#include "computed/session/request.h"
#include "computed/session/sequence.h"
#include "computed/session/session_events.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {

// Pages that are reserved for an answer whose length the request leaves open.
inline constexpr int kMostUnaskedTokens = 4096;

struct InferenceSessionOptions {
  int64_t vocabulary = 0;
  int context_tokens = 0;  // longest sequence, prompt and answer together
  int kv_pages = 0;        // pages of the KV cache
  int step_tokens = 256;   // most rows of a step
  int evaluate_rows = 64;  // most rows of a step whose logits go to Evaluate
  int max_sequences = 32;  // most requests running at once
  int max_waiting = 64;    // most requests waiting
  // Called before a step if other requests take part than in the step before, with their ids. May
  // be null.
  std::function<void(std::vector<std::string> request_ids)> on_requests;
  // A step gives up after waiting this long for weights.
  absl::Duration weights_patience = absl::Seconds(30);
  // Compares the weights with what they were, after a step whose logits were not numbers: DATA_LOSS
  // if they have changed. Called on a thread of its own, at most one at a time; may be null. The
  // session's destructor waits for it.
  std::function<absl::Status()> verify_weights;
  // How long the last comparison counts.
  absl::Duration verify_interval = absl::Minutes(10);
  // A request whose client takes no more answers is dropped after this long.
  absl::Duration stall_timeout = absl::Seconds(60);
  // Told what happens. Not owned, must outlive the session; may be null.
  SessionEvents* events = nullptr;
};

class InferenceSession {
 public:
  // `check_weights` is called after every step, before its results count: an error fails the
  // requests that were part of it. The references must outlive the session; `trace` may be null.
  InferenceSession(InferenceSessionOptions options, ForwardPass& forward,
                   const Tokenizer* tokenizer, std::function<absl::Status()> check_weights,
                   Trace* trace);
  // Fails what is still there with CANCELLED.
  ~InferenceSession();

  // Takes a request; its observer is called until OnDone. Returns an id for Cancel. Errors:
  // INVALID_ARGUMENT (tokens or options out of range, longer than the context or the KV cache),
  // RESOURCE_EXHAUSTED (the queue is full), UNAVAILABLE (draining).
  absl::StatusOr<uint64_t> Submit(Request request, std::shared_ptr<RequestObserver> observer);
  // The request, if it is still there, ends with `status` at the next step boundary.
  void Cancel(uint64_t id, absl::Status status = absl::CancelledError("cancelled by the client"));
  // An observer that was not ready is again.
  void Wake();

  // Takes no new requests from now on, and returns when all have ended or at `deadline`, whichever
  // comes first; whether all have ended.
  bool Drain(absl::Time deadline);

  // How long a client that was turned away should wait.
  absl::Duration RetryDelay() const;

  struct Snapshot {
    uint64_t id = 0;
    Request::Kind kind = Request::Kind::kGenerate;
    bool waiting = false;
    int prompt_tokens = 0;
    int processed_tokens = 0;
    int generated_tokens = 0;
    int kv_pages = 0;
    absl::Time start;
    std::string peer;
  };
  std::vector<Snapshot> List() const;

  // How full it is, all numbers of one moment. Never waits for a step.
  struct Load {
    int running = 0;
    int waiting = 0;
    int kv_pages_used = 0;
  };
  Load load() const;

  int kv_pages_total() const { return options_.kv_pages; }
  int kv_pages_used() const;

 private:
  void Loop();
  // Each is one part of a step, called by Loop with the lock held.
  void DropEnded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Admit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BuildBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddRows(Sequence& sequence, int rows) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishStep(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WaitForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnnounceRequests();
  void ExamineLogits() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What a sequence whose logits were not numbers ends with, once there is a verdict.
  absl::Status UnusableLogits(const Sequence& sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Why a request cannot be run, and which kind of reason that is; or makes it fit: a max_tokens
  // beyond the room in the context or the KV cache becomes that room, at most kMostUnaskedTokens.
  absl::Status Fit(Request& request, SessionEvents::Rejection* why) const;
  absl::StatusOr<uint64_t> Enqueue(Request request, std::shared_ptr<RequestObserver> observer,
                                   SessionEvents::Rejection* why);
  int PagesFor(const Request& request) const;

  const InferenceSessionOptions options_;
  ForwardPass& forward_;
  const Tokenizer* const tokenizer_;
  const std::function<absl::Status()> check_weights_;
  Trace* const trace_;
  SessionEvents& events_;

  mutable absl::Mutex mutex_;
  PageAllocator pages_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Sequence>> waiting_ ABSL_GUARDED_BY(mutex_);
  // Only the session's thread changes what is in here; it reads it without the lock during a step.
  std::vector<std::unique_ptr<Sequence>> running_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration mean_service_time_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1);

  // The step in progress; the session's thread's own.
  StepBatch batch_;
  std::vector<Sequence*> batch_sequences_;  // parallel to batch_.sequences
  std::vector<Sequence*> logit_owners_;     // parallel to batch_.logit_rows
  std::vector<int> logit_positions_;        // parallel to batch_.logit_rows
  absl::Status weights_status_;
  absl::Time step_start_;
  int64_t steps_ = 0;  // begun, the current one included
  std::vector<std::string> announced_ids_;

  // What the last comparison of the weights said, and until when that counts.
  std::optional<absl::Status> verdict_ ABSL_GUARDED_BY(mutex_);
  absl::Time verdict_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool verify_running_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread verifying_;  // the session's thread begins and joins it, at last the destructor

  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_INFERENCE_SESSION_H_
