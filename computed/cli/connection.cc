#include "computed/cli/connection.h"

#include <grpcpp/support/client_interceptor.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/daemon/request_id.h"
#include "common/daemon/tls.h"
#include "computed/cli/output.h"

namespace gguf_offload::cli {
namespace {

// A model's metadata with its vocabulary can be tens of megabytes; this only bounds nonsense.
constexpr int kMaxMessageBytes = 1 << 30;

// What UseConnectionFlags has set.
struct ConnectionSettings {
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: plain text
  std::string server_name;
  std::string request_id;
};

ConnectionSettings& Settings() {
  static auto* const settings = new ConnectionSettings;
  return *settings;
}

// Adds --request-id to every call.
class RequestIdInterceptor : public grpc::experimental::Interceptor {
 public:
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("x-request-id", Settings().request_id);
    }
    methods->Proceed();
  }
};

class RequestIdInterceptorFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new RequestIdInterceptor;
  }
};

bool IsHostAndPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  return colon != std::string::npos && colon > 0 && address.find('/') == std::string::npos &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port > 0 && port < 65536;
}

}  // namespace

std::vector<Flag> ConnectionFlags() {
  return {
      {"tls-ca", FlagKind::kText, "FILE", "PEM file of the authorities of daemons' certificates."},
      {"tls-cert", FlagKind::kText, "FILE", "PEM file of the certificate to show to daemons."},
      {"tls-key", FlagKind::kText, "FILE", "PEM file of that certificate's key."},
      {"tls-server-name", FlagKind::kText, "NAME",
       "What the daemon's certificate has to name, if not the host."},
      {"request-id", FlagKind::kText, "ID", "Name of this request in the daemons' logs."},
  };
}

absl::Status UseConnectionFlags(const Arguments& arguments) {
  ConnectionSettings& settings = Settings();
  settings.server_name = arguments.Text("tls-server-name");
  settings.request_id = arguments.Text("request-id");
  if (!settings.request_id.empty() && !IsRequestId(settings.request_id)) {
    return absl::InvalidArgumentError("--request-id is not 1 to 128 letters, digits and -_.:/+=");
  }
  const int given = arguments.Has("tls-ca") + arguments.Has("tls-cert") + arguments.Has("tls-key");
  if (given == 0) return absl::OkStatus();
  if (given < 3) {
    return absl::InvalidArgumentError("--tls-ca, --tls-cert and --tls-key go together");
  }
  auto credentials = MutualTlsChannelCredentials({.certificate = arguments.Text("tls-cert"),
                                                  .key = arguments.Text("tls-key"),
                                                  .authorities = arguments.Text("tls-ca")});
  if (!credentials.ok()) return credentials.status();
  settings.credentials = *std::move(credentials);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& address) {
  if (!(absl::StartsWith(address, "unix:") && address.size() > 5) && !IsHostAndPort(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is no address; write unix:PATH or HOST:PORT"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // The daemons are reached directly, whatever http_proxy says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const ConnectionSettings& settings = Settings();
  if (!settings.server_name.empty()) arguments.SetSslTargetNameOverride(settings.server_name);
  // A Unix socket has no TLS: the kernel says who is at its other end.
  const bool tls = settings.credentials != nullptr && !absl::StartsWith(address, "unix:");
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!settings.request_id.empty()) {
    interceptors.push_back(std::make_unique<RequestIdInterceptorFactory>());
  }
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, tls ? settings.credentials : grpc::InsecureChannelCredentials(), arguments,
      std::move(interceptors));
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
