// One Attach call: a worker's lease on a model.
#ifndef WEIGHTD_SERVICE_ATTACH_STREAM_H_
#define WEIGHTD_SERVICE_ATTACH_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/weights.pb.h"
#include "weightd/service/service_core.h"
#include "weightd/service/session_book.h"

namespace gguf_offload {

// Events that have not been sent yet are kept one of a kind, the newest, so that a worker that does
// not read costs no memory.
//
// Owns itself from Start until gRPC is done with the call. Thread safe.
class AttachStream final : public grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>,
                           public Session,
                           public std::enable_shared_from_this<AttachStream> {
 public:
  // Serves a call. `pass` is held until its end.
  static AttachStream* Start(ServiceCore* core, grpc::CallbackServerContext* context,
                             CallGate::Pass pass);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Describe(v1::Session& description) override;
  void Tick(absl::Time now) override;
  void Drain() override;

 private:
  AttachStream(ServiceCore* core, grpc::CallbackServerContext* context, CallGate::Pass pass);

  absl::Status Handle(const v1::AttachRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Finds the model, takes the lease, builds the manifest. On the work queue.
  void Begin(const v1::AttachStart& start);
  absl::Status TakeLease(const v1::AttachStart& start);
  absl::StatusOr<shm::Ticket> IssueTicket(const std::shared_ptr<const store::Model>& model);
  // Asks for the hinted pages. On the work queue.
  void Prefetch(const v1::AttachHint& hint, const store::Model& model);
  void OnEvent(const store::ModelEvent& event);
  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fills in the next message; false if there is none.
  bool NextMessage(v1::AttachResponse& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Does whatever can be done next: send a message, finish. Takes the lock.
  void Advance();

  ServiceCore* const core_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  CallGate::Pass pass_;
  std::string id_;
  std::shared_ptr<AttachStream> self_;
  v1::AttachRequest incoming_;   // belongs to gRPC while a read is under way
  v1::AttachResponse outgoing_;  // belongs to gRPC while writing_

  absl::Mutex mutex_;
  bool start_received_ ABSL_GUARDED_BY(mutex_) = false;
  std::string worker_ ABSL_GUARDED_BY(mutex_);
  v1::Transport transport_ ABSL_GUARDED_BY(mutex_) = v1::TRANSPORT_UNSPECIFIED;
  store::Lease lease_ ABSL_GUARDED_BY(mutex_);
  std::optional<shm::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);
  // What is to be sent, in this order.
  std::optional<v1::AttachStarted> started_ ABSL_GUARDED_BY(mutex_);
  std::string manifest_ ABSL_GUARDED_BY(mutex_);  // serialized
  size_t manifest_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<std::string> data_loss_ ABSL_GUARDED_BY(mutex_);
  std::optional<uint64_t> new_generation_ ABSL_GUARDED_BY(mutex_);
  std::optional<std::string> drain_ ABSL_GUARDED_BY(mutex_);
  uint64_t populated_sent_ ABSL_GUARDED_BY(mutex_) = 0;

  // Hints being followed. The call is not finished meanwhile, as reads start there.
  int hints_ ABSL_GUARDED_BY(mutex_) = 0;
  bool beginning_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  // With what the call ends once everything is sent; without waiting for that if end_at_once_.
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool end_at_once_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_ATTACH_STREAM_H_
