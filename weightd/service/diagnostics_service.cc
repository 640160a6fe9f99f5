#include "weightd/service/diagnostics_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/process/process.h"

namespace gguf_offload {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 grpc::Status status = grpc::Status::OK) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

grpc::Status Unimplemented(const char* method) {
  return grpc::Status(
      grpc::StatusCode::UNIMPLEMENTED,
      absl::StrCat(method, " is answered by compute workers; this is the weight daemon"));
}

class NoTrace final : public grpc::ServerWriteReactor<v1::CaptureTraceResponse> {
 public:
  NoTrace() { Finish(Unimplemented("CaptureTrace")); }
  void OnDone() override { delete this; }
};

}  // namespace

DiagnosticsService::DiagnosticsService(ServiceCore* core, std::map<std::string, std::string> flags)
    : core_(core), flags_(std::move(flags)), started_(absl::Now()) {}

grpc::ServerUnaryReactor* DiagnosticsService::GetBuildInfo(grpc::CallbackServerContext* context,
                                                           const v1::GetBuildInfoRequest*,
                                                           v1::GetBuildInfoResponse* response) {
  FillBuildInfo("weightd", *response);
  return Answer(context);
}

grpc::ServerUnaryReactor* DiagnosticsService::GetConfig(grpc::CallbackServerContext* context,
                                                        const v1::GetConfigRequest*,
                                                        v1::GetConfigResponse* response) {
  response->mutable_flags()->insert(flags_.begin(), flags_.end());
  return Answer(context);
}

grpc::ServerUnaryReactor* DiagnosticsService::GetPlacement(grpc::CallbackServerContext* context,
                                                           const v1::GetPlacementRequest*,
                                                           v1::GetPlacementResponse*) {
  return Answer(context, Unimplemented("GetPlacement"));
}

grpc::ServerUnaryReactor* DiagnosticsService::GetMemory(grpc::CallbackServerContext* context,
                                                        const v1::GetMemoryRequest*,
                                                        v1::GetMemoryResponse* response) {
  for (const store::ModelStatus& status : core_->store->List()) {
    if (status.generation != 0) {
      v1::MemoryUse* const use = response->add_uses();
      use->set_purpose(absl::StrCat("mapped model ", status.name));
      use->set_bytes(status.bytes);
      use->set_used_bytes(status.populated_bytes);
    }
    if (!status.residency_note.empty()) {
      response->add_fallbacks(absl::StrCat(status.name, ": ", status.residency_note));
    }
  }
  FillProcessMemory(*response);
  return Answer(context);
}

grpc::ServerUnaryReactor* DiagnosticsService::ListSessions(grpc::CallbackServerContext* context,
                                                           const v1::ListSessionsRequest*,
                                                           v1::ListSessionsResponse* response) {
  for (v1::Session& session : core_->sessions.List()) {
    *response->add_sessions() = std::move(session);
  }
  return Answer(context);
}

grpc::ServerWriteReactor<v1::CaptureTraceResponse>* DiagnosticsService::CaptureTrace(
    grpc::CallbackServerContext*, const v1::CaptureTraceRequest*) {
  return new NoTrace;
}

grpc::ServerUnaryReactor* DiagnosticsService::Ping(grpc::CallbackServerContext* context,
                                                   const v1::PingRequest* request,
                                                   v1::PingResponse* response) {
  response->set_payload(request->payload());
  response->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - started_));
  response->set_draining(core_->gate->draining());
  return Answer(context);
}

}  // namespace gguf_offload
