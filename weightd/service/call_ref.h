// Ends a call whose peer does not take what has been written. ServerContext::TryCancel would do,
// but gives the peer CANCELLED and no reason.
#ifndef WEIGHTD_SERVICE_CALL_REF_H_
#define WEIGHTD_SERVICE_CALL_REF_H_

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <string>
#include <utility>

#include "absl/status/status.h"

namespace gguf_offload {

// Keeps gRPC's object of a call alive, so that it can be cancelled without holding a lock that its
// callbacks take. Make it while the call is known not to be done. Movable, not copyable.
class CallRef {
 public:
  explicit CallRef(grpc::CallbackServerContext* context) : call_(context->c_call()) {
    grpc_call_ref(call_);
  }
  CallRef(CallRef&& other) noexcept : call_(std::exchange(other.call_, nullptr)) {}
  CallRef& operator=(CallRef&&) = delete;
  ~CallRef() {
    if (call_ != nullptr) grpc_call_unref(call_);
  }

  // The peer gets `status`, past everything that has not been sent yet.
  void Cancel(const absl::Status& status) {
    const std::string message(status.message());
    grpc_call_cancel_with_status(call_, static_cast<grpc_status_code>(status.code()),
                                 message.c_str(), nullptr);
  }

 private:
  grpc_call* call_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_CALL_REF_H_
