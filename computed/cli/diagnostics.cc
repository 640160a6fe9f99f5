// offloadctl memory, link, sessions, config, build, ping, trace: what a daemon is doing.
#include <chrono>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

using Stub = v1::DiagnosticsService::Stub;

// Makes one call to the daemon that the flags name and gives its answer.
template <typename Request, typename Response>
absl::StatusOr<Response> Call(const Arguments& arguments, const Request& request,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*)) {
  absl::StatusOr<std::string> address = EitherAddress(arguments);
  if (!address.ok()) return address.status();
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(*address);
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  Response response;
  const auto stub = v1::DiagnosticsService::NewStub(*channel);
  const grpc::Status status = (stub.get()->*method)(&context, request, &response);
  if (!status.ok()) return RpcError(status, *address);
  return response;
}

// Prints the JSON of an answer if it was asked for.
bool PrintedJson(const Arguments& arguments, const google::protobuf::Message& response) {
  if (!arguments.Has("json")) return false;
  Print(ToJson(response));
  return true;
}

absl::Status RunMemory(const Arguments& arguments) {
  const auto response = Call(arguments, v1::GetMemoryRequest(), &Stub::GetMemory);
  if (!response.ok()) return response.status();
  if (PrintedJson(arguments, *response)) return absl::OkStatus();
  Table table({"PURPOSE", ">RESERVED", ">IN USE"});
  for (const v1::MemoryUse& use : response->uses()) {
    table.Add({use.purpose(), HumanBytes(use.bytes()), HumanBytes(use.used_bytes())});
  }
  Print(table.ToString());
  Print(absl::StrFormat("process: resident %s, private %s, shared with files %s\n",
                        HumanBytes(response->resident_bytes()),
                        HumanBytes(response->private_bytes()),
                        HumanBytes(response->shared_file_bytes())));
  if (response->budget_bytes() > 0) {
    Print(absl::StrFormat("budget: %s\n", HumanBytes(response->budget_bytes())));
  }
  if (response->device_bytes() > 0) {
    Print(absl::StrFormat("GPU memory by the driver's count: %s\n",
                          HumanBytes(response->device_bytes())));
  }
  for (const std::string& fallback : response->fallbacks()) {
    Print(absl::StrCat("fallback: ", OneLine(fallback), "\n"));
  }
  return absl::OkStatus();
}

absl::Status RunLink(const Arguments& arguments) {
  const auto response = Call(arguments, v1::GetLinkActivityRequest(), &Stub::GetLinkActivity);
  if (!response.ok()) return response.status();
  if (PrintedJson(arguments, *response)) return absl::OkStatus();
  Print(absl::StrFormat("%s copied (%s) over a link of %s/s; computation waited %d times\n",
                        HumanBytes(response->bytes()), response->transport(),
                        HumanBytes(static_cast<uint64_t>(response->link_bytes_per_second())),
                        response->ring_stalls()));
  Table table({"LANE", ">BUSY", ">IDLE", ">BUSY SHARE"});
  const auto add = [&](const char* lane, double busy, double idle) {
    table.Add({lane, absl::StrFormat("%.3f s", busy), absl::StrFormat("%.3f s", idle),
               busy + idle > 0 ? absl::StrFormat("%.1f %%", 100 * busy / (busy + idle)) : "-"});
  };
  add("copy", response->copy_busy_seconds(), response->copy_idle_seconds());
  add("compute", response->compute_busy_seconds(), response->compute_idle_seconds());
  Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunSessions(const Arguments& arguments) {
  const auto response = Call(arguments, v1::ListSessionsRequest(), &Stub::ListSessions);
  if (!response.ok()) return response.status();
  if (PrintedJson(arguments, *response)) return absl::OkStatus();
  if (arguments.Has("worker")) {
    Table table(
        {"ID", "STATE", ">AGE", ">PROMPT", ">PROCESSED", ">GENERATED", ">KV PAGES", "PEER"});
    for (const v1::Session& s : response->sessions()) {
      table.Add({s.id(), s.state(), absl::StrFormat("%.1f s", s.age_seconds()),
                 absl::StrCat(s.prompt_tokens()), absl::StrCat(s.processed_tokens()),
                 absl::StrCat(s.generated_tokens()), absl::StrCat(s.kv_pages()), s.peer()});
    }
    Print(table.ToString());
    return absl::OkStatus();
  }
  Table table(
      {"ID", "KIND", ">AGE", "MODEL", ">GENERATION", "TRANSPORT", ">SENT", ">IN FLIGHT", "PEER"});
  for (const v1::Session& s : response->sessions()) {
    table.Add({s.id(), s.kind(), absl::StrFormat("%.1f s", s.age_seconds()), s.model(),
               absl::StrCat(s.generation()), s.transport(), HumanBytes(s.bytes_sent()),
               HumanBytes(s.bytes_in_flight()), s.peer()});
  }
  Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunConfig(const Arguments& arguments) {
  const auto response = Call(arguments, v1::GetConfigRequest(), &Stub::GetConfig);
  if (!response.ok()) return response.status();
  if (PrintedJson(arguments, *response)) return absl::OkStatus();
  const std::map<std::string, std::string> flags(response->flags().begin(),
                                                 response->flags().end());
  for (const auto& [name, value] : flags) {
    Print(OneLine(absl::StrCat("--", name, "=", value)) + "\n");
  }
  return absl::OkStatus();
}

absl::Status RunBuild(const Arguments& arguments) {
  const auto response = Call(arguments, v1::GetBuildInfoRequest(), &Stub::GetBuildInfo);
  if (!response.ok()) return response.status();
  if (PrintedJson(arguments, *response)) return absl::OkStatus();
  Print(OneLine(absl::StrFormat("%s %s, %s, SIMD %s, CUDA %s, gRPC %s", response->program(),
                                response->version(), response->compiler(), response->simd_target(),
                                response->cuda() ? "yes" : "no", response->grpc_version())) +
        "\n");
  return absl::OkStatus();
}

absl::Status RunPing(const Arguments& arguments) {
  v1::PingRequest request;
  request.set_payload("ping");
  const auto start = std::chrono::steady_clock::now();
  const auto response = Call(arguments, request, &Stub::Ping);
  if (!response.ok()) return response.status();
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  if (response->payload() != request.payload()) {
    return absl::DataLossError("the daemon sent back something else");
  }
  Print(absl::StrFormat("%.1f ms, up %.1f s%s\n", elapsed.count(), response->uptime_seconds(),
                        response->draining() ? ", draining" : ""));
  return absl::OkStatus();
}

absl::Status RunTrace(const Arguments& arguments) {
  const std::string address = arguments.Text("worker");
  grpc::ClientContext context;
  const CancelOnInterrupt cancel(&context);
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  absl::StatusOr<OutputFile> out = OutputFile::Create(arguments.Text("out"));
  if (!out.ok()) return out.status();
  v1::CaptureTraceRequest request;
  request.set_seconds(arguments.Real("seconds", 1));
  const auto stub = v1::DiagnosticsService::NewStub(*channel);
  const auto reader = stub->CaptureTrace(&context, request);
  v1::CaptureTraceResponse piece;
  while (reader->Read(&piece)) {
    if (absl::Status status = out->Write(piece.data().data(), piece.data().size()); !status.ok()) {
      context.TryCancel();
      return status;
    }
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return RpcError(status, address);
  return out->Close();
}

}  // namespace

std::vector<Command> DiagnosticsCommands() {
  const std::vector<Flag> flags = {kEitherWeightsFlag, kEitherWorkerFlag, kJsonFlag};
  const Flag seconds = {"seconds", FlagKind::kReal, "S", "How long to record; 1 by default."};
  const Flag out = {"out", FlagKind::kText, "FILE", "Where to write the JSON.", true};
  return {
      {"memory", "", 0, "Shows a daemon's memory by purpose.", flags, RunMemory},
      {"link",
       "",
       0,
       "Shows what has crossed the link to a worker's GPU, and who waited.",
       {kWorkerFlag, kJsonFlag},
       RunLink},
      {"sessions", "", 0, "Lists a worker's requests or a weight daemon's leases and streams.",
       flags, RunSessions},
      {"config", "", 0, "Shows the flags that a daemon runs with.", flags, RunConfig},
      {"build", "", 0, "Shows a daemon's version and features.", flags, RunBuild},
      {"ping",
       "",
       0,
       "Measures how fast a daemon answers.",
       {kEitherWeightsFlag, kEitherWorkerFlag},
       RunPing},
      {"trace",
       "",
       0,
       "Records a worker's steps as trace events that Perfetto reads.",
       {kWorkerFlag, seconds, out},
       RunTrace},
  };
}

}  // namespace gguf_offload::cli
