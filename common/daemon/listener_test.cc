#include "common/daemon/listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace gguf_offload {
namespace {

// Blocks until the kernel has taken the connection, which needs no accept.
int Connect(const HostPort& address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(address.port);
  inet_pton(AF_INET, address.host.c_str(), &to.sin_addr);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

// Keeps what the listener accepts.
class Connections {
 public:
  ~Connections() { CloseAll(); }
  void Add(int fd) {
    absl::MutexLock lock(&mutex_);
    fds_.push_back(fd);
    ++count_;
  }
  bool Wait(int count, absl::Duration patience = absl::Seconds(30)) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), patience);
  }
  void CloseAll() {
    absl::MutexLock lock(&mutex_);
    for (const int fd : fds_) close(fd);
    fds_.clear();
  }

 private:
  absl::Mutex mutex_;
  std::vector<int> fds_ ABSL_GUARDED_BY(mutex_);
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(Listener, HandsOverConnections) {
  auto listener = Listener::Bind({"127.0.0.1", 0});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_NE((*listener)->address().port, 0);
  Connections connections;
  // The first is made before anybody accepts.
  const int early = Connect((*listener)->address());
  (*listener)->Start([&](int fd) { connections.Add(fd); });
  const int late = Connect((*listener)->address());
  EXPECT_TRUE(connections.Wait(2));
  close(early);
  close(late);
}

TEST(Listener, KeepsItsPortToItself) {
  auto first = Listener::Bind({"127.0.0.1", 0});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Listener::Bind((*first)->address());
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  (*first)->Stop();
  EXPECT_TRUE(Listener::Bind((*first)->address()).ok());
}

TEST(Listener, SaysWhatCannotBeBound) {
  for (const char* host : {"no.such.host.invalid", "192.0.2.1"}) {
    const auto listener = Listener::Bind({host, 0});
    EXPECT_TRUE(absl::IsUnavailable(listener.status())) << listener.status();
    EXPECT_NE(listener.status().message().find(host), std::string::npos) << listener.status();
  }
}

TEST(Listener, NamesMayStandForSeveralAddresses) {
  auto listener = Listener::Bind({"localhost", 0});
  ASSERT_TRUE(listener.ok()) << listener.status();
  Connections connections;
  (*listener)->Start([&](int fd) { connections.Add(fd); });
  const int fd = Connect({"127.0.0.1", (*listener)->address().port});
  EXPECT_TRUE(connections.Wait(1));
  close(fd);
}

TEST(Listener, DisconnectEndsWhatItAccepted) {
  auto listener = Listener::Bind({"127.0.0.1", 0});
  auto other = Listener::Bind({"127.0.0.1", 0});
  ASSERT_TRUE(listener.ok() && other.ok());
  Connections connections;
  const int fd = Connect((*listener)->address());
  const int untouched = Connect((*other)->address());
  std::atomic<int> accepted = -1;
  (*listener)->Start([&](int connection) {
    accepted = connection;
    connections.Add(connection);
  });
  ASSERT_TRUE(connections.Wait(1));
  (*listener)->Stop();
  (*listener)->Disconnect(absl::Milliseconds(10));
  char byte = 0;
  EXPECT_EQ(read(accepted, &byte, 1), 0);
  // What has been written still arrives.
  EXPECT_EQ(write(accepted, "x", 1), 1);
  EXPECT_EQ(read(fd, &byte, 1), 1);
  pollfd polled{untouched, POLLIN | POLLRDHUP, 0};
  EXPECT_EQ(poll(&polled, 1, 0), 0);
  close(fd);
  close(untouched);
}

// Lowers the limit on descriptors to those that are open, for as long as it lives.
class NoDescriptorsLeft {
 public:
  NoDescriptorsLeft() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const int next = dup(0);
    close(next);
    const rlimit none{static_cast<rlim_t>(next), before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptorsLeft() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
};

TEST(Listener, Case40_ConnectionsWaitWhileThereAreNoDescriptors) {
  auto listener = Listener::Bind({"127.0.0.1", 0});
  ASSERT_TRUE(listener.ok()) << listener.status();
  Connections connections;
  const int fd = Connect((*listener)->address());
  {
    const NoDescriptorsLeft limit;
    (*listener)->Start([&](int accepted) { connections.Add(accepted); });
    EXPECT_FALSE(connections.Wait(1, absl::Milliseconds(300)));
  }
  EXPECT_TRUE(connections.Wait(1));
  close(fd);
}

}  // namespace
}  // namespace gguf_offload
