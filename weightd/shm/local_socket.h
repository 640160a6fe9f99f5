// The daemon's one Unix socket, which serves gRPC and hands out descriptors (handoff.h).
//
// Who may connect is decided by the peer's uid as the kernel reports it (SO_PEERCRED): the daemon's
// own and those allowed. After that a connection has a few seconds to show its first bytes. HTTP/2
// goes to the gRPC server, a valid ticket gets its descriptors, everything else is closed. However
// many connections are silent, slow or full of garbage, their number is bounded: when too many are
// undecided, the one that has been so for longest is closed.
#ifndef WEIGHTD_SHM_LOCAL_SOCKET_H_
#define WEIGHTD_SHM_LOCAL_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weightd/shm/handoff.h"
#include "weightd/store/unique_fd.h"

namespace gguf_offload::shm {

// How a ticket shown on the socket fared, or a connection that did not get as far.
enum class HandoffResult {
  kOk,            // all descriptors were sent
  kBadTicket,     // HandoffStatus
  kNotShareable,  // HandoffStatus
  kAborted,       // the peer left, or took too long, before all were sent
  kWrongUser,     // its user may not connect
};

// Owns the socket, its file and one thread, on which the callbacks are called. Thread safe.
class LocalSocket {
 public:
  struct Options {
    std::string path;
    // Users that may connect besides the daemon's own.
    std::vector<uint32_t> allowed_uids;
    // Takes a connection that speaks HTTP/2, nonblocking, nothing of it read.
    std::function<void(store::UniqueFd)> on_grpc;
    // Redeems a ticket.
    std::function<std::optional<Handoff>(const Ticket&)> redeem;
    // Told how each handoff ended and how many descriptors it was of. May be null.
    std::function<void(HandoffResult result, size_t descriptors)> on_handoff;
    // How long a connection may take to show what it is, and to take its descriptors.
    absl::Duration peer_timeout = absl::Seconds(5);
    // Connections that have not shown yet what they are.
    size_t max_undecided = 64;
  };

  // Creates the socket file (mode 0600, or 0666 when other users are allowed) and starts to listen.
  // A file left behind by a daemon that is gone is replaced. Errors: INVALID_ARGUMENT (path too
  // long), ALREADY_EXISTS (another daemon listens there, or it is not a socket), PERMISSION_DENIED,
  // UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<LocalSocket>> Start(Options options);

  LocalSocket(const LocalSocket&) = delete;
  LocalSocket& operator=(const LocalSocket&) = delete;

  // Closes the socket and all undecided connections, removes the file if it is still this socket's,
  // and ends the thread: no callback runs afterwards. Called by the destructor.
  void Stop();
  ~LocalSocket();

  // Connections that have not shown yet what they are.
  size_t undecided() const;
  const std::string& path() const;

 private:
  class Impl;
  explicit LocalSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gguf_offload::shm

#endif  // WEIGHTD_SHM_LOCAL_SOCKET_H_
