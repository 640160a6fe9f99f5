// The DiagnosticsService (diagnostics.proto) of the weight daemon.
#ifndef WEIGHTD_SERVICE_DIAGNOSTICS_SERVICE_H_
#define WEIGHTD_SERVICE_DIAGNOSTICS_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <map>
#include <string>

#include "absl/time/time.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"
#include "weightd/service/service_core.h"

namespace gguf_offload {

// Answers while draining as well, so that one can see what is left to drain. Nothing here waits.
// Thread safe.
class DiagnosticsService final : public v1::DiagnosticsService::CallbackService {
 public:
  // `core` is not owned and must outlive the server. `flags`: what GetConfig shows.
  DiagnosticsService(ServiceCore* core, std::map<std::string, std::string> flags);

  grpc::ServerUnaryReactor* GetBuildInfo(grpc::CallbackServerContext* context,
                                         const v1::GetBuildInfoRequest* request,
                                         v1::GetBuildInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetConfig(grpc::CallbackServerContext* context,
                                      const v1::GetConfigRequest* request,
                                      v1::GetConfigResponse* response) override;
  grpc::ServerUnaryReactor* GetPlacement(grpc::CallbackServerContext* context,
                                         const v1::GetPlacementRequest* request,
                                         v1::GetPlacementResponse* response) override;
  grpc::ServerUnaryReactor* GetMemory(grpc::CallbackServerContext* context,
                                      const v1::GetMemoryRequest* request,
                                      v1::GetMemoryResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerWriteReactor<v1::CaptureTraceResponse>* CaptureTrace(
      grpc::CallbackServerContext* context, const v1::CaptureTraceRequest* request) override;
  grpc::ServerUnaryReactor* Ping(grpc::CallbackServerContext* context,
                                 const v1::PingRequest* request,
                                 v1::PingResponse* response) override;

 private:
  ServiceCore* const core_;
  const std::map<std::string, std::string> flags_;
  const absl::Time started_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_DIAGNOSTICS_SERVICE_H_
