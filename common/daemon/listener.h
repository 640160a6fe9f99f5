// Accepts TCP connections for a gRPC server, in gRPC's place: this version of it stops listening
// for good when the process runs out of descriptors for a moment.
//
//   auto listener = Listener::Bind(address);
//   (*listener)->Start([&](int fd) { ... });  // takes the connection over
#ifndef COMMON_DAEMON_LISTENER_H_
#define COMMON_DAEMON_LISTENER_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/daemon/host_port.h"

struct addrinfo;

namespace gguf_offload {

// Owns the listening sockets and a thread that accepts. Bind, Start and Stop are for one thread.
class Listener {
 public:
  // Listens on all addresses that the host's name stands for, all on one port; connections wait in
  // the kernel until Start. Nobody else may listen there. UNAVAILABLE says why it cannot be done.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const HostPort& address);
  ~Listener();

  // The address in force: the port is the one chosen if 0 was asked for.
  const HostPort& address() const { return address_; }

  // `on_connection` is called from the listener's thread and owns the non-blocking socket it is
  // given. When the process has no descriptor left, connections wait until it has one again.
  void Start(std::function<void(int fd)> on_connection);

  // No connection is accepted after it. Idempotent.
  void Stop();

  // After Stop: whoever owns the connections reads their end, as if the peers had closed them, and
  // can still write. Returns when all have been closed, or after `patience`.
  void Disconnect(absl::Duration patience);

 private:
  explicit Listener(HostPort address);
  absl::Status Add(const addrinfo& where);
  void Run();
  // Takes what waits on a socket. False: there are no descriptors, and trying again at once is
  // of no use.
  bool AcceptAll(int socket);

  HostPort address_;
  std::vector<int> sockets_;
  int stop_fd_ = -1;  // readable once Stop has been called
  std::function<void(int fd)> on_connection_;
  std::thread thread_;
  bool short_of_descriptors_ = false;  // the thread's own
};

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_LISTENER_H_
