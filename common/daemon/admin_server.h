// The operators' port: a second gRPC server, on the loopback and in plain text, with channelz, the
// log level and CPU profiles, none of which belongs on the port that clients reach.
#ifndef COMMON_DAEMON_ADMIN_SERVER_H_
#define COMMON_DAEMON_ADMIN_SERVER_H_

#include <grpcpp/server.h>

#include <memory>

#include "absl/status/statusor.h"
#include "common/daemon/host_port.h"
#include "gguf_offload/v1/admin.grpc.pb.h"

namespace gguf_offload {

// Thread safe.
class AdminService : public v1::AdminService::CallbackService {
 public:
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;
  grpc::ServerWriteReactor<v1::CaptureProfileResponse>* CaptureProfile(
      grpc::CallbackServerContext* context, const v1::CaptureProfileRequest* request) override;
};

// Serves from Start until it is destroyed.
class AdminServer {
 public:
  // INVALID_ARGUMENT if `listen` is not on the loopback, UNAVAILABLE if it cannot be bound.
  // Every gRPC server that this process builds later offers channelz too, so build the others
  // first.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(HostPort listen);
  ~AdminServer();

  // The port is the one chosen if 0 was asked for.
  const HostPort& address() const { return address_; }

 private:
  AdminServer() = default;

  HostPort address_;
  AdminService service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_ADMIN_SERVER_H_
