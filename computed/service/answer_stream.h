// A streamed answer: what a request's observer says, on its way to a gRPC client that may be
// slower.
#ifndef COMPUTED_SERVICE_ANSWER_STREAM_H_
#define COMPUTED_SERVICE_ANSWER_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/daemon/call_gate.h"
#include "common/grpc_status/retry_info.h"
#include "common/grpc_status/status.h"
#include "common/log/log.h"
#include "computed/session/inference_session.h"

namespace gguf_offload {

// A gRPC call and the observer of its request in one. The call keeps itself alive until gRPC is
// done with it, and the session keeps the observer alive until the request has ended; the request
// ends the call and a broken call cancels the request. Thread safe.
template <typename Response>
class AnswerStream : public grpc::ServerWriteReactor<Response>,
                     public RequestObserver,
                     public std::enable_shared_from_this<AnswerStream<Response>> {
 public:
  AnswerStream(InferenceSession& session, CallGate::Pass pass)
      : session_(session), pass_(std::move(pass)) {}

  // Submits the request. Call once, right after construction through std::make_shared.
  void Start(Request request) {
    self_ = this->shared_from_this();
    request_id_ = request.id;
    peer_ = request.peer;
    absl::StatusOr<uint64_t> id = session_.Submit(std::move(request), self_);
    if (!id.ok()) {
      absl::Status status = id.status();
      if (absl::IsResourceExhausted(status)) AddRetryInfo(session_.RetryDelay(), status);
      LogEnd(LogLevel::kDebug, "request refused", status, {});
      return End(status);
    }
    bool broken;
    {
      absl::MutexLock lock(&mutex_);
      id_ = *id;
      broken = broken_;
    }
    // The client may have gone before there was an id to cancel.
    if (broken) session_.Cancel(*id);
  }

  // Ends the call; only the first status counts. Everything queued before is still sent.
  void End(const absl::Status& status) {
    auto alive = this->shared_from_this();
    absl::MutexLock lock(&mutex_);
    if (!final_.has_value()) final_ = ToGrpc(status);
    Pump();
  }

  void OnWriteDone(bool ok) override {
    auto alive = this->shared_from_this();
    bool wake = false;
    {
      absl::MutexLock lock(&mutex_);
      wake = queue_.size() == kReadyLimit;
      queue_.pop_front();
      writing_ = false;
      broken_ = broken_ || !ok;
      Pump();
    }
    if (wake) session_.Wake();
    if (!ok) CancelRequest();
  }
  void OnCancel() override {
    auto alive = this->shared_from_this();
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
    }
    CancelRequest();
  }
  void OnDone() override {
    pass_ = CallGate::Pass();
    self_.reset();
  }
  bool Ready() override {
    absl::MutexLock lock(&mutex_);
    return queue_.size() < kReadyLimit;
  }

 protected:
  // Queues a response, or lets `merge` add it to the last one that is still waiting.
  template <typename Merge>
  void Send(Response response, const Merge& merge) {
    auto alive = this->shared_from_this();
    absl::MutexLock lock(&mutex_);
    if (broken_) return;
    const bool last_is_waiting = queue_.size() > (writing_ ? 1u : 0u);
    if (!last_is_waiting || !merge(queue_.back(), response)) queue_.push_back(std::move(response));
    Pump();
  }

  // One record for each request, whatever becomes of it.
  void LogEnd(LogLevel level, std::string_view message, const absl::Status& status,
              const RequestResult& result) {
    Log(level, message,
        {{"request_id", request_id_},
         {"peer", peer_},
         {"status", absl::StatusCodeToString(status.code())},
         {"prompt_tokens", result.prompt_tokens},
         {"generated_tokens", result.generated_tokens},
         {"queued_seconds", absl::ToDoubleSeconds(result.queued)},
         {"prefill_seconds", absl::ToDoubleSeconds(result.prefill)},
         {"decode_seconds", absl::ToDoubleSeconds(result.decode)}});
  }

 private:
  // Beyond this, a request that can wait does.
  static constexpr size_t kReadyLimit = 64;

  // Not with the lock held: the session calls its observers under its own.
  void CancelRequest() {
    uint64_t id;
    {
      absl::MutexLock lock(&mutex_);
      id = id_;
    }
    if (id != 0) session_.Cancel(id);
  }

  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (broken_) queue_.clear();
    if (!queue_.empty()) {
      writing_ = true;
      this->StartWrite(&queue_.front());
    } else if (final_.has_value()) {
      finished_ = true;
      this->Finish(*final_);
    }
  }

  InferenceSession& session_;
  CallGate::Pass pass_;
  std::shared_ptr<AnswerStream> self_;
  std::string request_id_, peer_;

  absl::Mutex mutex_;
  std::deque<Response> queue_ ABSL_GUARDED_BY(mutex_);  // the front one is being written
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<grpc::Status> final_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_ANSWER_STREAM_H_
