// What the main functions of both daemons share: a gRPC server with health checking and reflection,
// the line that announces it, and an orderly end.
//
//   BlockTerminationSignals();                      // before the first thread
//   auto daemon = Daemon::Start({.listen = address, .services = {&service}, .gate = &gate});
//   ...                                             // whatever else has to be ready
//   (*daemon)->Announce();                          // health: SERVING; "listening on HOST:PORT"
//   return (*daemon)->ServeUntilSignal();
//
// On SIGTERM or SIGINT: health turns NOT_SERVING, the gate refuses new calls (UNAVAILABLE), running
// calls get the grace period to finish, then they are cancelled. A second signal ends the grace
// period at once. SIGHUP calls on_hangup.
#ifndef COMMON_DAEMON_DAEMON_H_
#define COMMON_DAEMON_DAEMON_H_

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/daemon/admin_server.h"
#include "common/daemon/call_gate.h"
#include "common/daemon/host_port.h"
#include "common/daemon/listener.h"
#include "common/daemon/live_calls.h"

namespace gguf_offload {

// Blocks SIGTERM, SIGINT and SIGHUP in this thread and all that it starts, so that ServeUntilSignal
// gets them, and ignores SIGPIPE.
void BlockTerminationSignals();

// Owns the server. Start, Announce, ServeUntilSignal and Stop are for one thread; the rest is
// thread safe.
class Daemon {
 public:
  struct Options {
    HostPort listen;
    // Default: no transport security.
    std::shared_ptr<grpc::ServerCredentials> credentials;
    // Not owned; must outlive the daemon.
    std::vector<grpc::Service*> services;
    // Names that health checking knows besides "", for example "gguf_offload.v1.WeightService".
    std::vector<std::string> health_names;
    // Every method of the services enters it. Not owned. Must outlive the daemon.
    CallGate* gate = nullptr;
    absl::Duration grace = absl::Seconds(30);
    // Of the operators' port, see admin_server.h.
    std::optional<HostPort> admin;
    // Where metrics are served, to be announced.
    std::optional<HostPort> metrics;
    // Called on SIGHUP, by the thread in ServeUntilSignal. May be null.
    std::function<void()> on_hangup;
    // Called when draining begins: tells long-lived streams to end. May be null.
    std::function<void()> on_drain;
    // Called when the grace period is over, before the server is shut down: nothing may be added to
    // the server after it. May be null.
    std::function<void()> on_stop;
    // Makes what counts the calls. May be null.
    std::function<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>()>
        call_metrics;
    // Last word on the builder: message sizes, channel arguments. May be null.
    std::function<void(grpc::ServerBuilder&)> configure;
  };

  // Binds and starts the server, not yet healthy. UNAVAILABLE if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(Options options);

  // Stops without grace if it still runs.
  ~Daemon();

  grpc::Server* server() { return server_.get(); }
  // The address in force: the port is the one chosen if 0 was asked for.
  const HostPort& address() const { return address_; }

  // Turns health to SERVING and prints "listening on HOST:PORT" to standard output, and "metrics on
  // HOST:PORT" and "admin on HOST:PORT" if there are such ports.
  void Announce();
  // Turns health to SERVING and prints nothing.
  void SetServing();

  // Waits for SIGTERM or SIGINT, drains, stops. Returns the exit code for main: 0 if all calls
  // ended within the grace period or were cancelled cleanly.
  int ServeUntilSignal();

  // Drains, waits up to `grace` for running calls, cancels the rest, waits for the server's end.
  // Returns whether nothing had to be cancelled.
  bool Stop(absl::Duration grace);

 private:
  Daemon() = default;
  void SetHealth(bool serving);
  void StartDraining(std::function<void()> on_idle);
  void ShutDown();

  Options options_;
  HostPort address_;
  std::unique_ptr<Listener> listener_;
  const std::shared_ptr<LiveCalls> live_calls_ = std::make_shared<LiveCalls>();
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<AdminServer> admin_;
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_DAEMON_H_
