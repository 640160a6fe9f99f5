// A call that records something for a while and then sends it as one document, in pieces.
#ifndef COMMON_DAEMON_CAPTURE_CALL_H_
#define COMMON_DAEMON_CAPTURE_CALL_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/grpc_status/status.h"

namespace gguf_offload {

// `Response` has one field, `data`. Deletes itself when gRPC is done with it.
template <typename Response>
class CaptureCall : public grpc::ServerWriteReactor<Response> {
 public:
  // `seconds` is 0.01 to 60, or 0 for 1. If `start` succeeds, `stop` is called once, when the time
  // is over or the client has gone, and gives the document.
  CaptureCall(double seconds, const std::function<absl::Status()>& start,
              std::function<std::string()> stop)
      : stop_(std::move(stop)) {
    if (seconds == 0) seconds = 1;
    absl::Status status = seconds >= 0.01 && seconds <= 60
                              ? start()
                              : absl::InvalidArgumentError("seconds is not 0.01 to 60");
    if (!status.ok()) {
      this->Finish(ToGrpc(status));
      return;
    }
    this->StartSendInitialMetadata();  // tells the client that recording has begun
    alarm_.Set(absl::ToChronoTime(absl::Now() + absl::Seconds(seconds)), [this](bool) {
      document_ = stop_();
      SendNext();
    });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return this->Finish({grpc::StatusCode::CANCELLED, "the client has gone"});
    SendNext();
  }
  void OnCancel() override { alarm_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  static constexpr size_t kPieceBytes = 1 << 20;

  void SendNext() {
    if (sent_ == document_.size()) return this->Finish(grpc::Status::OK);
    response_.set_data(document_.substr(sent_, kPieceBytes));
    sent_ += response_.data().size();
    this->StartWrite(&response_);
  }

  const std::function<std::string()> stop_;
  grpc::Alarm alarm_;
  std::string document_;
  size_t sent_ = 0;
  Response response_;
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_CAPTURE_CALL_H_
