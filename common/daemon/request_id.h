// Request ids: a name for a request that follows it through daemons and their logs. A client sends
// one as metadata "x-request-id"; if it does not, or sends nonsense, the daemon makes one up. Every
// call's initial metadata carries it back.
#ifndef COMMON_DAEMON_REQUEST_ID_H_
#define COMMON_DAEMON_REQUEST_ID_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <string_view>

#include "common/daemon/live_calls.h"

namespace gguf_offload {

inline constexpr char kRequestIdKey[] = "x-request-id";

// 1 to 128 letters, digits and "-_.:/+=".
bool IsRequestId(std::string_view text);

// 32 random hexadecimal digits.
std::string NewRequestId();

// The id of the call that `context` belongs to, on a server with the interceptor below.
std::string RequestIdOf(const grpc::ServerContextBase& context);

// Sees to it that every call has an id, and logs the end of every call: at level debug, with
// method, status, duration, client and id. Calls of gRPC's own services, which may last for ever,
// are not counted among the live ones.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> RequestIdInterceptor(
    std::shared_ptr<LiveCalls> live);

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_REQUEST_ID_H_
