#include "common/daemon/daemon.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/daemon/request_id.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

sigset_t AwaitedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  return signals;
}

// Closes itself; -1 if the descriptor could not be made.
struct Descriptor {
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

// Waits until one of two descriptors is readable or the deadline has come. Returns the readable
// one, `first` by preference, or -1.
int WaitReadable(int first, int second, absl::Time deadline) {
  for (;;) {
    pollfd polled[2] = {{first, POLLIN, 0}, {second, POLLIN, 0}};
    int timeout_ms = -1;
    if (deadline != absl::InfiniteFuture()) {
      const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
      timeout_ms = static_cast<int>(std::min<int64_t>(
          absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))), 1 << 30));
    }
    const int ready = poll(polled, second >= 0 ? 2 : 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return -1;
    return polled[0].revents != 0 ? first : second;
  }
}

// Connections notice when the other side is gone, on either side's initiative.
void SetKeepalive(grpc::ServerBuilder& builder) {
  // A peer that has vanished without closing its connection, or that has been stopped, is noticed;
  // with the connection go its leases and streams.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  // Clients may do the same every 5 s, while a call waits and without one; a second less, as pings
  // do not arrive as evenly as they are sent. gRPC's own limit is 5 minutes, and it ends the
  // connection of a client that pings more often.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 4000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

void InitializePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Never given back: the library's own shutdown may wait 10 s for a poller of its own.
    grpc_init();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t signals = AwaitedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(Options options) {
  InitializePlugins();
  std::unique_ptr<Daemon> daemon(new Daemon);
  daemon->options_ = std::move(options);
  const Options& o = daemon->options_;

  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Bind(o.listen);
  if (!listener.ok()) return listener.status();
  daemon->listener_ = *std::move(listener);
  daemon->address_ = daemon->listener_->address();
  grpc::ServerBuilder builder;
  daemon->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      o.credentials ? o.credentials : grpc::InsecureServerCredentials());
  for (grpc::Service* service : o.services) builder.RegisterService(service);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(RequestIdInterceptor(daemon->live_calls_));
  if (o.call_metrics) interceptors.push_back(o.call_metrics());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  SetKeepalive(builder);
  if (o.configure) o.configure(builder);
  daemon->server_ = builder.BuildAndStart();
  if (daemon->server_ == nullptr) return absl::InternalError("the gRPC server does not start");
  daemon->SetHealth(false);
  if (o.admin.has_value()) {
    // After the server that clients reach: see AdminServer::Start.
    absl::StatusOr<std::unique_ptr<AdminServer>> admin = AdminServer::Start(*o.admin);
    if (!admin.ok()) return admin.status();
    daemon->admin_ = *std::move(admin);
  }
  daemon->listener_->Start([acceptor = daemon->acceptor_.get()](int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    acceptor->HandleNewConnection(&connection);
  });
  return daemon;
}

Daemon::~Daemon() {
  if (server_ != nullptr) Stop(absl::ZeroDuration());
}

void Daemon::SetHealth(bool serving) {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  for (const std::string& name : options_.health_names) health->SetServingStatus(name, serving);
  health->SetServingStatus(serving);
}

void Daemon::SetServing() { SetHealth(true); }

void Daemon::Announce() {
  SetServing();
  std::printf("listening on %s\n", address_.ToString().c_str());
  if (options_.metrics.has_value()) {
    std::printf("metrics on %s\n", options_.metrics->ToString().c_str());
  }
  if (admin_ != nullptr) std::printf("admin on %s\n", admin_->address().ToString().c_str());
  std::fflush(stdout);
}

void Daemon::StartDraining(std::function<void()> on_idle) {
  SetHealth(false);
  options_.gate->StartDraining(std::move(on_idle));
  if (options_.on_drain) options_.on_drain();
}

int Daemon::ServeUntilSignal() {
  const sigset_t signals = AwaitedSignals();
  const Descriptor signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const Descriptor idle_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (signal_fd.fd < 0 || idle_fd.fd < 0) {
    Log(LogLevel::kError, "cannot wait for signals", {{"why", std::strerror(errno)}});
    return 1;
  }
  signalfd_siginfo received;
  for (;;) {
    WaitReadable(signal_fd.fd, -1, absl::InfiniteFuture());
    if (read(signal_fd.fd, &received, sizeof(received)) < 0) continue;
    if (received.ssi_signo != SIGHUP) break;
    Log(LogLevel::kInfo, "SIGHUP");
    if (options_.on_hangup) options_.on_hangup();
  }
  Log(LogLevel::kInfo, "draining",
      {{"signal", received.ssi_signo},
       {"calls", options_.gate->running()},
       {"grace", absl::FormatDuration(options_.grace)}});
  StartDraining([fd = idle_fd.fd] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
  });
  const int ready = WaitReadable(idle_fd.fd, signal_fd.fd, absl::Now() + options_.grace);
  if (ready != idle_fd.fd) {
    Log(LogLevel::kWarning, "cancelling calls that have not finished",
        {{"calls", options_.gate->running()}});
  }
  ShutDown();
  Log(LogLevel::kInfo, "stopped");
  return 0;
}

bool Daemon::Stop(absl::Duration grace) {
  if (server_ == nullptr) return true;
  StartDraining(nullptr);
  const bool idle = options_.gate->WaitUntilIdle(absl::Now() + grace);
  ShutDown();
  return idle;
}

void Daemon::ShutDown() {
  listener_->Stop();
  // Answers that are on their way out leave first. Then connections are ended before the server is:
  // a call that arrives while it shuts down is answered with CANCELLED, which looks as if the
  // client had asked for it; that of a broken connection is UNAVAILABLE.
  live_calls_->WaitUntilNone(absl::Now() + absl::Milliseconds(200));
  listener_->Disconnect(absl::Seconds(1));
  if (options_.on_stop) options_.on_stop();
  // Only calls of the library itself (health watches, reflection) and those that had their chance
  // are left: a moment for what is on its way out, then all are cancelled.
  server_->Shutdown(absl::ToChronoTime(absl::Now() + absl::Milliseconds(200)));
  server_->Wait();
  // A cancelled call may still be on its way out of our code.
  options_.gate->WaitUntilIdle(absl::Now() + absl::Seconds(10));
  server_.reset();
}

}  // namespace gguf_offload
