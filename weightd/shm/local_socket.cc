#include "weightd/shm/local_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <cstring>
#include <list>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/log/log.h"
#include "weightd/shm/socket_file.h"

namespace gguf_offload::shm {
namespace {

namespace asio = boost::asio;
using Descriptor = asio::posix::stream_descriptor;
using store::UniqueFd;

// While a peer has shown too few bytes to tell what it is: nothing signals that there are more.
constexpr auto kPeekAgain = std::chrono::milliseconds(5);
// After the process has run out of descriptors.
constexpr auto kAcceptAgain = std::chrono::milliseconds(100);

std::optional<ucred> PeerOf(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
  return peer;
}

// Lets one line a second through, so that nobody can fill the log.
class LogLimiter {
 public:
  bool Allow() {
    const absl::Time now = absl::Now();
    if (now - last_ < absl::Seconds(1)) return false;
    last_ = now;
    return true;
  }

 private:
  absl::Time last_ = absl::InfinitePast();
};

// One message with up to kBatch descriptors. Returns what sendmsg does.
ssize_t SendBatch(int fd, const int* descriptors, size_t count) {
  uint8_t announced = static_cast<uint8_t>(count);
  iovec piece{&announced, sizeof(announced)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kBatch)] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * count);
  std::memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
  return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Receives without room for descriptors, so that the kernel drops those that a peer sends, and says
// whether there were any.
ssize_t ReceiveBytes(int fd, void* data, size_t bytes, int flags, bool& descriptors) {
  iovec piece{data, bytes};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  const ssize_t n = recvmsg(fd, &message, flags | MSG_DONTWAIT);
  descriptors = n >= 0 && (message.msg_flags & MSG_CTRUNC) != 0;
  return n;
}

}  // namespace

class LocalSocket::Impl {
 public:
  Impl(Options options, SocketFile file)
      : options_(std::move(options)),
        file_(std::move(file)),
        acceptor_(io_, dup(file_->fd())),
        accept_again_(io_) {}

  void Start() {
    WaitToAccept();
    thread_ = std::thread([this] { io_.run(); });
  }

  void Stop() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    peers_.clear();
    undecided_ = 0;
    if (acceptor_.is_open()) acceptor_.close();
    file_.reset();
  }

  size_t undecided() const { return undecided_; }
  const std::string& path() const { return options_.path; }

 private:
  // A connection that has not shown yet what it is, or that is being sent its descriptors.
  struct Peer {
    Peer(asio::io_context& io, int fd, ucred credentials)
        : descriptor(io, fd), deadline(io), again(io), credentials(credentials) {}
    Descriptor descriptor;
    asio::steady_timer deadline;
    asio::steady_timer again;
    const ucred credentials;
    Handoff handoff;
    bool sending = false;  // `handoff` is on its way
    std::string reply;     // what has not been sent of the reply's header
    size_t sent = 0;       // descriptors
  };
  // The list owns the peers. Handlers hold weak pointers: a handler whose peer is gone does
  // nothing.
  using PeerPtr = std::shared_ptr<Peer>;

  template <typename Method>
  auto Handler(const PeerPtr& peer, Method method) {
    return
        [this, weak = std::weak_ptr<Peer>(peer), method](const boost::system::error_code& error) {
          const PeerPtr peer = weak.lock();
          if (error || peer == nullptr || !peer->descriptor.is_open()) return;
          (this->*method)(peer);
        };
  }

  void WaitToAccept() {
    acceptor_.async_wait(Descriptor::wait_read, [this](const boost::system::error_code& error) {
      if (!error) Accept();
    });
  }

  void Accept() {
    for (;;) {
      const int fd =
          accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd < 0 && errno == EINTR) continue;
      if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED)) return WaitToAccept();
      if (fd < 0) return AcceptLater();
      const std::optional<ucred> credentials = PeerOf(fd);
      if (!credentials.has_value() || !Allowed(credentials->uid)) {
        if (limiter_.Allow()) {
          Log(LogLevel::kWarning, "connection of a user that is not allowed",
              {{"uid", credentials.has_value() ? static_cast<int64_t>(credentials->uid) : -1},
               {"socket", options_.path}});
        }
        Tell(HandoffResult::kWrongUser);
        close(fd);
        continue;
      }
      Add(fd, *credentials);
    }
  }

  void AcceptLater() {
    if (limiter_.Allow()) {
      Log(LogLevel::kError, "cannot accept connections",
          {{"why", strerror(errno)}, {"socket", options_.path}});
    }
    accept_again_.expires_after(kAcceptAgain);
    accept_again_.async_wait([this](const boost::system::error_code& error) {
      if (!error) Accept();
    });
  }

  bool Allowed(uint32_t uid) const {
    if (uid == geteuid()) return true;
    for (const uint32_t allowed : options_.allowed_uids) {
      if (uid == allowed) return true;
    }
    return false;
  }

  void Add(int fd, ucred credentials) {
    if (peers_.size() >= options_.max_undecided) Close(peers_.front());
    peers_.push_back(std::make_shared<Peer>(io_, fd, credentials));
    undecided_ = peers_.size();
    const PeerPtr& peer = peers_.back();
    peer->deadline.expires_after(absl::ToChronoNanoseconds(options_.peer_timeout));
    peer->deadline.async_wait(Handler(peer, &Impl::Close));
    peer->descriptor.async_wait(Descriptor::wait_read, Handler(peer, &Impl::Peek));
  }

  void Close(const PeerPtr& peer_in_list) {
    const PeerPtr peer = peer_in_list;
    if (std::exchange(peer->sending, false)) Tell(HandoffResult::kAborted);
    peers_.remove(peer);
    undecided_ = peers_.size();
    peer->deadline.cancel();
    peer->again.cancel();
    if (peer->descriptor.is_open()) peer->descriptor.close();
  }

  void Tell(HandoffResult result, size_t descriptors = 0) const {
    if (options_.on_handoff) options_.on_handoff(result, descriptors);
  }

  void Peek(const PeerPtr& peer) {
    const int fd = peer->descriptor.native_handle();
    char start[kRequestBytes];
    bool descriptors = false;
    const ssize_t n = ReceiveBytes(fd, start, sizeof(start), MSG_PEEK, descriptors);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      peer->descriptor.async_wait(Descriptor::wait_read, Handler(peer, &Impl::Peek));
      return;
    }
    if (n <= 0 || descriptors) return Close(peer);
    const size_t shown = std::min(static_cast<size_t>(n), sizeof(kMagic));
    const bool http2 = std::memcmp(start, kHttp2Start, shown) == 0;
    const bool handoff = std::memcmp(start, kMagic, shown) == 0;
    if (!http2 && !handoff) return Close(peer);
    if (shown == sizeof(kMagic) && http2) return PassToGrpc(peer);
    if (static_cast<size_t>(n) == kRequestBytes) return ReadTicket(peer);
    // The rest is on its way, or never comes.
    peer->again.expires_after(kPeekAgain);
    peer->again.async_wait(Handler(peer, &Impl::Peek));
  }

  void PassToGrpc(const PeerPtr& peer) {
    UniqueFd fd(peer->descriptor.release());
    Close(peer);
    options_.on_grpc(std::move(fd));
  }

  void ReadTicket(const PeerPtr& peer) {
    uint8_t request[kRequestBytes];
    bool descriptors = false;
    const ssize_t n =
        ReceiveBytes(peer->descriptor.native_handle(), request, sizeof(request), 0, descriptors);
    if (n != static_cast<ssize_t>(sizeof(request)) || descriptors) return Close(peer);
    Ticket ticket;
    std::memcpy(ticket.data(), request + sizeof(kMagic), ticket.size());
    std::optional<Handoff> handoff = options_.redeem(ticket);
    HandoffStatus status = HandoffStatus::kBadTicket;
    if (handoff.has_value()) {
      status = Check(*handoff, peer->credentials);
      if (status == HandoffStatus::kOk) peer->handoff = *std::move(handoff);
    }
    peer->sending = status == HandoffStatus::kOk;
    if (status == HandoffStatus::kBadTicket) Tell(HandoffResult::kBadTicket);
    if (status == HandoffStatus::kNotShareable) Tell(HandoffResult::kNotShareable);
    const uint32_t fields[2] = {static_cast<uint32_t>(status),
                                static_cast<uint32_t>(peer->handoff.descriptors.size())};
    peer->reply.assign(kMagic, sizeof(kMagic));
    peer->reply.append(reinterpret_cast<const char*>(fields), sizeof(fields));
    Send(peer);
  }

  HandoffStatus Check(const Handoff& handoff, const ucred& peer) {
    for (const int descriptor : handoff.descriptors) {
      if (absl::Status s = CheckShareable(descriptor); !s.ok()) {
        Log(LogLevel::kError, "descriptor not handed out",
            {{"model", handoff.model}, {"why", std::string(s.message())}});
        return HandoffStatus::kNotShareable;
      }
      if (WritableBy(descriptor, peer.uid, peer.gid) && warned_.size() < 10000 &&
          warned_.insert(handoff.model).second) {
        Log(LogLevel::kWarning,
            "the worker's user may write the model's files; serve files that it cannot write",
            {{"model", handoff.model}, {"uid", peer.uid}});
      }
    }
    return HandoffStatus::kOk;
  }

  // Sends what is left of the reply and of the descriptors, as far as the peer takes them.
  void Send(const PeerPtr& peer) {
    const int fd = peer->descriptor.native_handle();
    const std::vector<int>& descriptors = peer->handoff.descriptors;
    for (;;) {
      ssize_t n = 0;
      if (!peer->reply.empty()) {
        n = send(fd, peer->reply.data(), peer->reply.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) peer->reply.erase(0, static_cast<size_t>(n));
      } else if (peer->sent < descriptors.size()) {
        const size_t count = std::min(kBatch, descriptors.size() - peer->sent);
        n = SendBatch(fd, descriptors.data() + peer->sent, count);
        if (n > 0) peer->sent += count;
      } else {
        if (std::exchange(peer->sending, false)) Tell(HandoffResult::kOk, descriptors.size());
        return Close(peer);
      }
      if (n >= 0 || errno == EINTR) continue;
      // ETOOMANYREFS: too many descriptors under way to peers that do not take them.
      if (errno != EAGAIN) return Close(peer);
      peer->descriptor.async_wait(Descriptor::wait_write, Handler(peer, &Impl::Send));
      return;
    }
  }

  const Options options_;
  std::optional<SocketFile> file_;
  asio::io_context io_;
  Descriptor acceptor_;
  asio::steady_timer accept_again_;
  std::thread thread_;
  // The rest belongs to the thread.
  std::list<PeerPtr> peers_;  // oldest first
  std::set<std::string> warned_;
  LogLimiter limiter_;
  std::atomic<size_t> undecided_{0};
};

LocalSocket::LocalSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<LocalSocket>> LocalSocket::Start(Options options) {
  const mode_t mode = options.allowed_uids.empty() ? 0600 : 0666;
  absl::StatusOr<SocketFile> file = SocketFile::Listen(options.path, mode);
  if (!file.ok()) return file.status();
  auto impl = std::make_unique<Impl>(std::move(options), *std::move(file));
  impl->Start();
  return std::unique_ptr<LocalSocket>(new LocalSocket(std::move(impl)));
}

LocalSocket::~LocalSocket() { Stop(); }
void LocalSocket::Stop() { impl_->Stop(); }
size_t LocalSocket::undecided() const { return impl_->undecided(); }
const std::string& LocalSocket::path() const { return impl_->path(); }

}  // namespace gguf_offload::shm
