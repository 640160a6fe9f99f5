#include "weightd/service/diagnostics_service.h"

#include <grpcpp/grpcpp.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gguf_offload {
namespace {

constexpr char kVersion[] = "0.1.0";

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

// "RssAnon:  1234 kB" and its like in /proc/self/status, in bytes by name.
std::map<std::string, uint64_t> ProcessMemory() {
  std::map<std::string, uint64_t> memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.rfind(" kB") == std::string::npos) continue;
    memory[line.substr(0, colon)] = std::strtoull(line.c_str() + colon + 1, nullptr, 10) * 1024;
  }
  return memory;
}

}  // namespace

DiagnosticsService::DiagnosticsService(ServiceCore* core, std::map<std::string, std::string> flags)
    : core_(core), flags_(std::move(flags)), started_(absl::Now()) {}

grpc::ServerUnaryReactor* DiagnosticsService::GetBuildInfo(grpc::CallbackServerContext* context,
                                                           const v1::GetBuildInfoRequest*,
                                                           v1::GetBuildInfoResponse* response) {
  response->set_program("weightd");
  response->set_version(kVersion);
  response->set_compiler("g++ " __VERSION__);
  response->set_grpc_version(grpc::Version());
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
  std::map<std::string, uint64_t> memory = ProcessMemory();
  response->set_resident_bytes(memory["VmRSS"]);
  response->set_private_bytes(memory["RssAnon"]);
  response->set_shared_file_bytes(memory["RssFile"] + memory["RssShmem"]);
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
