// One VerifyModel call: hashes tensors and reports each.
#ifndef WEIGHTD_SERVICE_VERIFY_STREAM_H_
#define WEIGHTD_SERVICE_VERIFY_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "gguf_offload/v1/weights.pb.h"
#include "weightd/service/service_core.h"

namespace gguf_offload {

// One tensor at a time on the hashing queue, the next when gRPC has taken the report on the one
// before; a cancelled call stops after the tensor it is at.
//
// Owns itself from Start until gRPC is done with the call. Thread safe.
class VerifyStream final : public grpc::ServerWriteReactor<v1::VerifyModelResponse>,
                           public std::enable_shared_from_this<VerifyStream> {
 public:
  // Serves a call. `pass` is held until its end.
  static VerifyStream* Start(ServiceCore* core, const v1::VerifyModelRequest& request,
                             CallGate::Pass pass);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  VerifyStream(ServiceCore* core, CallGate::Pass pass) : core_(core), pass_(std::move(pass)) {}

  absl::Status Open(const v1::VerifyModelRequest& request);
  // Does whatever can be done next. Takes the lock.
  void Advance();
  // Hashes the next tensor, or sums up after the last, and sends the report. On the hashing queue.
  void Step();
  absl::Status ReportTensor(size_t index);
  void ReportAll();

  ServiceCore* const core_;
  CallGate::Pass pass_;
  std::shared_ptr<VerifyStream> self_;

  // Belong to whoever is at work: Start, then Step.
  std::shared_ptr<const store::Model> model_;
  size_t next_ = 0, end_ = 0;  // indices of tensors
  uint64_t bytes_done_ = 0, bytes_total_ = 0, changed_ = 0;
  std::string hashes_;              // 8 bytes little-endian a tensor
  v1::VerifyModelResponse report_;  // belongs to gRPC while writing_

  absl::Mutex mutex_;
  bool stepping_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> result_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_VERIFY_STREAM_H_
