// DiagnosticsService of the compute worker.
#ifndef COMPUTED_SERVICE_DIAGNOSTICS_SERVICE_H_
#define COMPUTED_SERVICE_DIAGNOSTICS_SERVICE_H_

#include "absl/time/clock.h"
#include "computed/service/worker.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload {

// Thread safe.
class WorkerDiagnosticsService : public v1::DiagnosticsService::CallbackService {
 public:
  // `worker` must outlive the service.
  explicit WorkerDiagnosticsService(const Worker& worker) : worker_(worker), start_(absl::Now()) {}

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
  grpc::ServerUnaryReactor* GetLinkActivity(grpc::CallbackServerContext* context,
                                            const v1::GetLinkActivityRequest* request,
                                            v1::GetLinkActivityResponse* response) override;
  grpc::ServerUnaryReactor* GetExpertActivity(grpc::CallbackServerContext* context,
                                              const v1::GetExpertActivityRequest* request,
                                              v1::GetExpertActivityResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerWriteReactor<v1::CaptureTraceResponse>* CaptureTrace(
      grpc::CallbackServerContext* context, const v1::CaptureTraceRequest* request) override;
  grpc::ServerUnaryReactor* Ping(grpc::CallbackServerContext* context,
                                 const v1::PingRequest* request,
                                 v1::PingResponse* response) override;

 private:
  const Worker& worker_;
  const absl::Time start_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_DIAGNOSTICS_SERVICE_H_
