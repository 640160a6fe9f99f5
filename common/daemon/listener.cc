#include "common/daemon/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

// Pause after an attempt to accept has failed for want of descriptors or memory: nothing signals
// that there are some again.
constexpr int kAcceptAgainMs = 100;

void SetOption(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof(value));
}

// The local port; 0 of what is no TCP socket.
uint16_t PortOf(int socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  if (bound.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6&>(bound).sin6_port);
  if (bound.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in&>(bound).sin_port);
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const HostPort& address) {
  const auto error = [&address](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(), ": ", why));
  };
  std::unique_ptr<Listener> listener(new Listener(address));
  listener->stop_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->stop_fd_ < 0) return error(std::strerror(errno));
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (const int code = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found); code != 0) {
    return error(gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  absl::Status failure;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const absl::Status status = listener->Add(*a);
    if (status.ok()) continue;
    // A name may stand for addresses of a family that this machine does not have.
    if (!absl::IsNotFound(status)) return error(status.message());
    failure = status;
  }
  if (listener->sockets_.empty()) return error(failure.message());
  return listener;
}

Listener::Listener(HostPort address) : address_(std::move(address)) {}

Listener::~Listener() {
  Stop();
  if (stop_fd_ >= 0) close(stop_fd_);
}

absl::Status Listener::Add(const addrinfo& where) {
  const auto error = [](int code) {
    return code == EADDRNOTAVAIL || code == EAFNOSUPPORT
               ? absl::NotFoundError(std::strerror(code))
               : absl::UnavailableError(std::strerror(code));
  };
  const int fd = socket(where.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return error(errno);
  sockaddr_storage to{};
  std::memcpy(&to, where.ai_addr, where.ai_addrlen);
  if (where.ai_family == AF_INET6) {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(to);
    v6.sin6_port = htons(address_.port);
    // "[::]" is both families.
    SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr) ? 0 : 1);
  } else {
    reinterpret_cast<sockaddr_in&>(to).sin_port = htons(address_.port);
  }
  // A daemon comes back on a port that connections of the one before have just left.
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(fd, reinterpret_cast<sockaddr*>(&to), where.ai_addrlen) != 0 ||
      listen(fd, SOMAXCONN) != 0) {
    const int code = errno;
    close(fd);
    return error(code);
  }
  sockets_.push_back(fd);
  if (address_.port == 0) address_.port = PortOf(fd);
  return absl::OkStatus();
}

void Listener::Start(std::function<void(int fd)> on_connection) {
  on_connection_ = std::move(on_connection);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_fd_, &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  for (const int fd : std::exchange(sockets_, {})) close(fd);
}

void Listener::Disconnect(absl::Duration patience) {
  const absl::Time deadline = absl::Now() + patience;
  // The connections' owner closes them when it likes, so their numbers cannot be kept. All that
  // this process has open is looked at instead: a socket that came from the listener has its port.
  for (bool left = true; left && absl::Now() < deadline;) {
    left = false;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
      int fd = -1;
      if (absl::SimpleAtoi(entry.path().filename().string(), &fd) && PortOf(fd) == address_.port) {
        shutdown(fd, SHUT_RD);
        left = true;
      }
    }
    // Nothing tells that a descriptor was closed.
    if (left) absl::SleepFor(absl::Milliseconds(1));
  }
}

void Listener::Run() {
  std::vector<pollfd> polled = {{stop_fd_, POLLIN, 0}};
  for (const int fd : sockets_) polled.push_back({fd, POLLIN, 0});
  for (;;) {
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[0].revents != 0) return;
    bool pause = false;
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents != 0 && !AcceptAll(polled[i].fd)) pause = true;
    }
    if (pause && poll(polled.data(), 1, kAcceptAgainMs) > 0) return;
  }
}

bool Listener::AcceptAll(int socket) {
  for (;;) {
    const int fd = accept4(socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      if (std::exchange(short_of_descriptors_, false)) {
        Log(LogLevel::kInfo, "accepting connections again", {{"address", address_.ToString()}});
      }
      on_connection_(fd);
      continue;
    }
    switch (errno) {
      case EAGAIN:
        return true;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        // Said once until there is room again: peers can bring it about as often as they like.
        if (!std::exchange(short_of_descriptors_, true)) {
          Log(LogLevel::kError, "cannot accept connections",
              {{"why", std::strerror(errno)}, {"address", address_.ToString()}});
        }
        return false;
      default:
        // The connection's own failure, such as ECONNABORTED (accept(2)).
        continue;
    }
  }
}

}  // namespace gguf_offload
