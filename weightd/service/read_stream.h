// One ReadBlocks call: a tensor's bytes in pieces, for diagnostics and simple clients.
#ifndef WEIGHTD_SERVICE_READ_STREAM_H_
#define WEIGHTD_SERVICE_READ_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/weights.pb.h"
#include "weightd/service/service_core.h"
#include "weightd/service/session_book.h"

namespace gguf_offload {

// Holds one piece at a time: the next is copied when gRPC has taken the one before.
//
// Owns itself from Start until gRPC is done with the call. Thread safe.
class ReadStream final : public grpc::ServerWriteReactor<v1::ReadBlocksResponse>,
                         public Session,
                         public std::enable_shared_from_this<ReadStream> {
 public:
  static constexpr uint64_t kPiece = 1 << 20;

  // Serves a call. `pass` is held until its end.
  static ReadStream* Start(ServiceCore* core, grpc::CallbackServerContext* context,
                           const v1::ReadBlocksRequest& request, CallGate::Pass pass);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Describe(v1::Session& description) override;
  void Tick(absl::Time now) override;
  void Drain() override {}  // Running calls may finish.

 private:
  ReadStream(ServiceCore* core, grpc::CallbackServerContext* context, CallGate::Pass pass);

  absl::Status Open(const v1::ReadBlocksRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Does whatever can be done next. Takes the lock.
  void Advance();
  // Copies the next piece and sends it. On the work queue.
  void Prepare();

  ServiceCore* const core_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  CallGate::Pass pass_;
  std::string id_;
  std::shared_ptr<ReadStream> self_;
  v1::ReadBlocksResponse outgoing_;  // belongs to gRPC, or to Prepare, while busy_

  absl::Mutex mutex_;
  std::shared_ptr<const store::Model> model_ ABSL_GUARDED_BY(mutex_);
  std::span<const uint8_t> left_ ABSL_GUARDED_BY(mutex_);
  uint64_t offset_ ABSL_GUARDED_BY(mutex_) = 0;  // in the tensor, of left_
  uint64_t bytes_sent_ ABSL_GUARDED_BY(mutex_) = 0;
  bool preparing_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_READ_STREAM_H_
