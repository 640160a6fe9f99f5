#include "weightd/shm/receive.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gguf_offload::shm {
namespace {

using store::UniqueFd;

absl::Status Broken(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
}

// Waits for `events` on a socket until the deadline.
absl::Status Wait(int socket, short events, absl::Time deadline) {
  for (;;) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the daemon does not answer on its socket");
    }
    pollfd polled{socket, events, 0};
    const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
    const int ready = poll(&polled, 1, static_cast<int>(std::min<int64_t>(ms, 1 << 30)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Broken("poll");
  }
}

absl::StatusOr<UniqueFd> Connect(const std::string& path, absl::Time deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path too long: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Broken("socket");
  while (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    // EAGAIN: the daemon's queue of connections is full, and there is no event to wait for.
    if (errno != EAGAIN && errno != EINTR) return Broken(absl::StrCat("connect to ", path));
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("the daemon does not accept");
    poll(nullptr, 0, 5);
  }
  return fd;
}

absl::Status SendRequest(int fd, std::string_view ticket, absl::Time deadline) {
  char request[kRequestBytes];
  std::memcpy(request, kMagic, sizeof(kMagic));
  std::memcpy(request + sizeof(kMagic), ticket.data(), kTicketBytes);
  size_t sent = 0;
  while (sent < sizeof(request)) {
    const ssize_t n = send(fd, request + sent, sizeof(request) - sent, MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<size_t>(n);
    } else if (errno == EAGAIN || errno == EINTR) {
      if (absl::Status s = Wait(fd, POLLOUT, deadline); !s.ok()) return s;
    } else {
      return Broken("send");
    }
  }
  return absl::OkStatus();
}

// Receives exactly `bytes` bytes into `data` and appends the descriptors that come with them.
absl::Status Receive(int fd, void* data, size_t bytes, absl::Time deadline,
                     std::vector<UniqueFd>& descriptors) {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    iovec piece{to, bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kBatch)];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (absl::Status s = Wait(fd, POLLIN, deadline); !s.ok()) return s;
      continue;
    }
    if (n < 0) return Broken("recvmsg");
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int received;
        std::memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        descriptors.emplace_back(received);
      }
    }
    if (n == 0) return absl::UnavailableError("the daemon closed the connection");
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
      return absl::ResourceExhaustedError(
          "not all descriptors arrived: is the limit on open files too low?");
    }
    to += n;
    bytes -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status CheckReply(const uint8_t* reply, size_t count) {
  if (std::memcmp(reply, kMagic, sizeof(kMagic)) != 0) {
    return absl::FailedPreconditionError("the socket does not speak the handoff protocol");
  }
  uint32_t status, announced;
  std::memcpy(&status, reply + 4, sizeof(status));
  std::memcpy(&announced, reply + 8, sizeof(announced));
  switch (static_cast<HandoffStatus>(status)) {
    case HandoffStatus::kOk:
      break;
    case HandoffStatus::kBadTicket:
      return absl::PermissionDeniedError("the daemon refused the ticket");
    case HandoffStatus::kNotShareable:
      return absl::FailedPreconditionError("the daemon may not share the model's files");
    default:
      return absl::FailedPreconditionError(absl::StrCat("unknown handoff status ", status));
  }
  if (announced != count) {
    return absl::FailedPreconditionError(
        absl::StrCat("the daemon hands out ", announced, " descriptors for ", count, " files"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<UniqueFd>> ReceiveDescriptors(const std::string& path,
                                                         std::string_view ticket, size_t count,
                                                         absl::Time deadline) {
  if (ticket.size() != kTicketBytes) return absl::InvalidArgumentError("ticket of a wrong size");
  absl::StatusOr<UniqueFd> fd = Connect(path, deadline);
  if (!fd.ok()) return fd.status();
  if (absl::Status s = SendRequest(fd->get(), ticket, deadline); !s.ok()) return s;

  std::vector<UniqueFd> descriptors;
  uint8_t reply[kReplyBytes];
  absl::Status status = Receive(fd->get(), reply, sizeof(reply), deadline, descriptors);
  if (status.ok()) status = CheckReply(reply, count);
  if (!status.ok()) return status;
  while (descriptors.size() < count) {
    const size_t before = descriptors.size();
    uint8_t batch = 0;
    status = Receive(fd->get(), &batch, sizeof(batch), deadline, descriptors);
    if (!status.ok()) return status;
    if (batch == 0 || descriptors.size() - before != batch || descriptors.size() > count) {
      return absl::FailedPreconditionError(absl::StrCat("a message that announces ", batch,
                                                        " descriptors carries ",
                                                        descriptors.size() - before));
    }
  }
  for (size_t i = 0; i < descriptors.size(); ++i) {
    if (absl::Status s = CheckShareable(descriptors[i].get()); !s.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("descriptor of file ", i, ": ", s.message()));
    }
  }
  return descriptors;
}

}  // namespace gguf_offload::shm
