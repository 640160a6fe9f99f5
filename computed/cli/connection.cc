#include "computed/cli/connection.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "computed/cli/output.h"

namespace gguf_offload::cli {
namespace {

// A model's metadata with its vocabulary can be tens of megabytes; this only bounds nonsense.
constexpr int kMaxMessageBytes = 1 << 30;

bool IsHostAndPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  return colon != std::string::npos && colon > 0 && address.find('/') == std::string::npos &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port > 0 && port < 65536;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& address) {
  if (!(absl::StartsWith(address, "unix:") && address.size() > 5) && !IsHostAndPort(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is no address; write unix:PATH or HOST:PORT"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // The daemons are reached directly, whatever http_proxy says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status RpcError(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::string message = OneLine(status.error_message());
  switch (code) {
    case absl::StatusCode::kCancelled:
      return absl::CancelledError("cancelled");
    case absl::StatusCode::kNotFound:
      return absl::NotFoundError(absl::StrCat(message, " at ", address));
    case absl::StatusCode::kUnavailable:
      // gRPC's own text about a connection that could not be made lists addresses and error codes.
      if (absl::StartsWith(message, "failed to connect")) message = "no daemon answers";
      return absl::UnavailableError(absl::StrCat(message, " at ", address));
    case absl::StatusCode::kUnimplemented:
      return absl::UnimplementedError(absl::StrCat(
          "the daemon at ", address, " does not offer this", message.empty() ? "" : ": ", message));
    default:
      return absl::Status(code, absl::StrCat(address, ": ", message));
  }
}

CancelOnInterrupt::CancelOnInterrupt(grpc::ClientContext* context) {
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
  signals_ = signalfd(-1, &interrupt, SFD_CLOEXEC);
  stop_ = eventfd(0, EFD_CLOEXEC);
  watcher_ = std::thread(&CancelOnInterrupt::Watch, this, context);
}

CancelOnInterrupt::~CancelOnInterrupt() {
  const uint64_t one = 1;
  if (write(stop_, &one, sizeof(one)) != sizeof(one)) std::abort();  // cannot block or fail
  watcher_.join();
  close(signals_);
  close(stop_);
}

void CancelOnInterrupt::Watch(grpc::ClientContext* context) {
  bool interrupted = false;
  while (true) {
    pollfd descriptors[] = {{signals_, POLLIN, 0}, {stop_, POLLIN, 0}};
    if (poll(descriptors, 2, -1) < 0) continue;
    if (descriptors[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) continue;
    if (interrupted) _exit(130);
    interrupted = true;
    context->TryCancel();
  }
}

}  // namespace gguf_offload::cli
