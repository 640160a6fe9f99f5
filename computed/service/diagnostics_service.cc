#include "computed/service/diagnostics_service.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/daemon/capture_call.h"
#include "common/process/process.h"

namespace gguf_offload {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetBuildInfo(
    grpc::CallbackServerContext* context, const v1::GetBuildInfoRequest* request,
    v1::GetBuildInfoResponse* response) {
  FillBuildInfo("computed", *response);
  response->set_simd_target(worker_.simd_target);
  response->set_cuda(BuiltWithCuda());
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetConfig(grpc::CallbackServerContext* context,
                                                              const v1::GetConfigRequest* request,
                                                              v1::GetConfigResponse* response) {
  response->mutable_flags()->insert(worker_.flags.begin(), worker_.flags.end());
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetPlacement(
    grpc::CallbackServerContext* context, const v1::GetPlacementRequest* request,
    v1::GetPlacementResponse* response) {
  const Placement& placement = worker_.engine->placement();
  const int head = worker_.tensors->head_group();
  for (int group = 0; group <= head; ++group) {
    const std::vector<ModelTensor>& tensors = worker_.tensors->groups[group];
    for (size_t i = 0; i < tensors.size(); ++i) {
      v1::TensorPlacement& out = *response->add_tensors();
      out.set_name(tensors[i].name);
      out.set_type_name(std::string(quant::FormatOf(tensors[i].type).name));
      out.set_bytes(tensors[i].bytes);
      out.set_layer(group == 0 || group == head ? -1 : group - 1);
      out.set_place(placement.places[group][i]);
    }
  }
  response->set_shared_bytes(placement.shared_bytes);
  response->set_resident_bytes(placement.resident_bytes);
  response->set_streamed_bytes(placement.streamed_bytes);
  response->set_cached_bytes(placement.cached_bytes);
  response->set_bytes_per_step(placement.streamed_bytes);
  if (placement.streamed_bytes + placement.cached_bytes > 0) {
    const double bandwidth = worker_.engine->loader().bytes_per_second();
    response->set_link_bytes_per_second(bandwidth);
    if (bandwidth > 0) response->set_predicted_step_seconds(placement.streamed_bytes / bandwidth);
  }
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetMemory(grpc::CallbackServerContext* context,
                                                              const v1::GetMemoryRequest* request,
                                                              v1::GetMemoryResponse* response) {
  const auto add = [&](std::string purpose, uint64_t bytes, uint64_t used) {
    v1::MemoryUse& use = *response->add_uses();
    use.set_purpose(std::move(purpose));
    use.set_bytes(bytes);
    use.set_used_bytes(used);
  };
  for (const MemoryItem& item : worker_.engine->Memory()) {
    const bool kv = item.purpose == "kv cache";
    add(item.purpose, item.bytes,
        kv ? item.bytes / worker_.session->kv_pages_total() * worker_.session->kv_pages_used()
           : item.bytes);
  }
  const Placement& placement = worker_.engine->placement();
  if (placement.shared_bytes > 0) {
    uint64_t mapped = 0;
    for (const v1::ShardInfo& shard : worker_.source->manifest().shards()) mapped += shard.bytes();
    add(absl::StrCat("mapped model ", worker_.source->manifest().name()), mapped,
        placement.shared_bytes);
  }
  response->set_budget_bytes(worker_.engine->memory_budget());
  response->set_device_bytes(worker_.engine->device_bytes());
  for (std::string& line : worker_.engine->Fallbacks()) response->add_fallbacks(std::move(line));
  FillProcessMemory(*response);
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetLinkActivity(
    grpc::CallbackServerContext* context, const v1::GetLinkActivityRequest* request,
    v1::GetLinkActivityResponse* response) {
  const std::optional<LinkCounters> counters = worker_.engine->link_counters();
  if (!counters.has_value()) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish({grpc::StatusCode::UNIMPLEMENTED, "this worker has no GPU"});
    return reactor;
  }
  response->set_transport(counters->transport);
  response->set_bytes(counters->bytes);
  response->set_link_bytes_per_second(worker_.engine->loader().bytes_per_second());
  response->set_ring_stalls(counters->ring_stalls);
  response->set_copy_busy_seconds(counters->copy_busy_seconds);
  response->set_copy_idle_seconds(counters->copy_idle_seconds);
  response->set_compute_busy_seconds(counters->compute_busy_seconds);
  response->set_compute_idle_seconds(counters->compute_idle_seconds);
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::GetExpertActivity(
    grpc::CallbackServerContext* context, const v1::GetExpertActivityRequest* request,
    v1::GetExpertActivityResponse* response) {
  const absl::StatusOr<std::vector<ExpertCounters>> counters = worker_.engine->expert_counters();
  if (!counters.ok()) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish({grpc::StatusCode::INTERNAL, std::string(counters.status().message())});
    return reactor;
  }
  for (const ExpertCounters& layer : *counters) {
    v1::ExpertLayer& out = *response->add_layers();
    out.set_layer(layer.layer);
    out.set_experts(static_cast<int32_t>(layer.uses.size()));
    out.set_slots(layer.slots);
    out.set_slot_bytes(layer.slot_bytes);
    out.set_hits(layer.hits);
    out.set_misses(layer.misses);
    out.set_bytes_fetched(layer.bytes);
    out.set_host_hits(layer.host_hits);
    out.set_host_misses(layer.host_misses);
    out.set_host_bytes_fetched(layer.host_bytes);
    out.set_predicted(layer.early);
    out.set_predicted_used(layer.early_used);
    out.set_predicted_bytes(layer.early_bytes);
    out.mutable_uses()->Add(layer.uses.begin(), layer.uses.end());
  }
  return Finish(context);
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::ListSessions(
    grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
    v1::ListSessionsResponse* response) {
  const absl::Time now = absl::Now();
  for (const InferenceSession::Snapshot& snapshot : worker_.session->List()) {
    v1::Session& out = *response->add_sessions();
    const char* const kind = snapshot.kind == Request::Kind::kGenerate ? "generate" : "evaluate";
    out.set_id(absl::StrCat(kind, "-", snapshot.id));
    out.set_kind(kind);
    out.set_state(snapshot.waiting                                     ? "waiting"
                  : snapshot.processed_tokens < snapshot.prompt_tokens ? "prefill"
                                                                       : "decode");
    out.set_peer(snapshot.peer);
    out.set_age_seconds(absl::ToDoubleSeconds(now - snapshot.start));
    out.set_prompt_tokens(snapshot.prompt_tokens);
    out.set_processed_tokens(snapshot.processed_tokens);
    out.set_generated_tokens(snapshot.generated_tokens);
    out.set_kv_pages(snapshot.kv_pages);
    out.set_model(worker_.source->manifest().name());
    out.set_generation(worker_.source->manifest().generation());
  }
  return Finish(context);
}

grpc::ServerWriteReactor<v1::CaptureTraceResponse>* WorkerDiagnosticsService::CaptureTrace(
    grpc::CallbackServerContext* context, const v1::CaptureTraceRequest* request) {
  Trace* const trace = worker_.trace;
  return new CaptureCall<v1::CaptureTraceResponse>(
      request->seconds(),
      [trace] {
        return trace->Start() ? absl::OkStatus()
                              : absl::FailedPreconditionError("another capture is running");
      },
      [trace] { return trace->Stop(); });
}

grpc::ServerUnaryReactor* WorkerDiagnosticsService::Ping(grpc::CallbackServerContext* context,
                                                         const v1::PingRequest* request,
                                                         v1::PingResponse* response) {
  response->set_payload(request->payload());
  response->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - start_));
  response->set_draining(worker_.gate->draining());
  return Finish(context);
}

}  // namespace gguf_offload
