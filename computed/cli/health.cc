// offloadctl health: asks a daemon by gRPC's health protocol (grpc.health.v1). Its exit code is
// what counts, for probes that run a command.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

absl::Status RunHealth(const Arguments& arguments) {
  const std::string address = arguments.Text("address");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  context.set_deadline(
      absl::ToChronoTime(absl::Now() + absl::Seconds(arguments.Real("timeout", 5))));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(arguments.Text("service"));
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status =
      grpc::health::v1::Health::NewStub(*channel)->Check(&context, request, &response);
  if (!status.ok()) return RpcError(status, address);
  if (response.status() != grpc::health::v1::HealthCheckResponse::SERVING) {
    return absl::UnavailableError(absl::StrCat("NOT_SERVING at ", address));
  }
  Print("SERVING\n");
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> HealthCommands() {
  return {
      {"health",
       "",
       0,
       "Whether a daemon serves: exit code 0 if it does, 1 if not.",
       {{"address", FlagKind::kText, "ADDR", "The daemon: unix:PATH or HOST:PORT.", true},
        {"service", FlagKind::kText, "NAME",
         "A service, for example gguf_offload.v1.InferenceService; all if absent."},
        {"timeout", FlagKind::kReal, "SECONDS", "How long to wait for an answer; 5 if absent."}},
       RunHealth}};
}

}  // namespace gguf_offload::cli
