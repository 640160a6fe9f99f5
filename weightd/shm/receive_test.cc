#include "weightd/shm/receive.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "absl/time/clock.h"

namespace gguf_offload::shm {
namespace {

using store::UniqueFd;

// A daemon that is not to be trusted: takes one connection and answers as the test says.
class FakeDaemon {
 public:
  explicit FakeDaemon(std::function<void(int)> answer) {
    char pattern[] = "/tmp/gguf-fake-XXXXXX";
    folder_ = mkdtemp(pattern);
    path_ = folder_ + "/s";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_.get(), 5), 0);
    thread_ = std::thread([this, answer = std::move(answer)] {
      const UniqueFd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char request[kRequestBytes];
      if (recv(peer.get(), request, sizeof(request), MSG_WAITALL) == ssize_t(sizeof(request))) {
        answer(peer.get());
      }
    });
  }
  ~FakeDaemon() {
    thread_.join();
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  std::string folder_, path_;
  UniqueFd listener_;
  std::thread thread_;
};

void SendReply(int fd, uint32_t status, uint32_t count) {
  char reply[kReplyBytes] = {'G', 'O', 'F', 'D'};
  std::memcpy(reply + 4, &status, 4);
  std::memcpy(reply + 8, &count, 4);
  EXPECT_EQ(send(fd, reply, sizeof(reply), MSG_NOSIGNAL), ssize_t(sizeof(reply)));
}

void SendDescriptors(int fd, uint8_t announced, const std::vector<int>& descriptors) {
  iovec piece{&announced, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 8)] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
  }
  EXPECT_EQ(sendmsg(fd, &message, MSG_NOSIGNAL), 1);
}

UniqueFd Memfd(bool sealed) {
  const UniqueFd fd(memfd_create("weights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), 4096), 0);
  if (sealed) {
    EXPECT_EQ(
        fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  }
  return UniqueFd(
      open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDONLY | O_CLOEXEC));
}

absl::StatusOr<std::vector<UniqueFd>> Ask(const FakeDaemon& daemon, size_t count) {
  return ReceiveDescriptors(daemon.path(), std::string(kTicketBytes, 't'), count,
                            absl::Now() + absl::Seconds(20));
}

TEST(Receive, Case32_RefusesAnUnsealedMemfd) {
  for (const bool sealed : {true, false}) {
    const FakeDaemon daemon([sealed](int fd) {
      SendReply(fd, 0, 1);
      SendDescriptors(fd, 1, {Memfd(sealed).get()});
    });
    const auto received = Ask(daemon, 1);
    EXPECT_EQ(received.ok(), sealed);
    if (!sealed) {
      EXPECT_TRUE(absl::IsFailedPrecondition(received.status())) << received.status();
    }
  }
}

TEST(Receive, RefusesAWritableDescriptor) {
  const FakeDaemon daemon([](int fd) {
    SendReply(fd, 0, 1);
    const UniqueFd writable(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    SendDescriptors(fd, 1, {writable.get()});
  });
  EXPECT_TRUE(absl::IsFailedPrecondition(Ask(daemon, 1).status()));
}

TEST(Receive, RefusesOtherNumbersThanAnnounced) {
  {
    const FakeDaemon more([](int fd) {
      const UniqueFd memfd = Memfd(true);
      SendReply(fd, 0, 1);
      SendDescriptors(fd, 1, {memfd.get(), memfd.get()});
    });
    EXPECT_TRUE(absl::IsFailedPrecondition(Ask(more, 1).status()));
  }
  {
    const FakeDaemon fewer([](int fd) {
      SendReply(fd, 0, 2);
      SendDescriptors(fd, 2, {Memfd(true).get()});
    });
    EXPECT_TRUE(absl::IsFailedPrecondition(Ask(fewer, 2).status()));
  }
  {
    const FakeDaemon none([](int fd) {
      SendReply(fd, 0, 1);
      SendDescriptors(fd, 0, {});
    });
    EXPECT_TRUE(absl::IsFailedPrecondition(Ask(none, 1).status()));
  }
}

TEST(Receive, RefusesGarbageAndBrokenConnections) {
  {
    const FakeDaemon garbage([](int fd) { send(fd, "HTTP/1.1 400 Bad", 16, MSG_NOSIGNAL); });
    EXPECT_TRUE(absl::IsFailedPrecondition(Ask(garbage, 1).status()));
  }
  {
    const FakeDaemon odd([](int fd) { SendReply(fd, 99, 1); });
    EXPECT_TRUE(absl::IsFailedPrecondition(Ask(odd, 1).status()));
  }
  {
    const FakeDaemon closes([](int fd) { SendReply(fd, 0, 1); });
    EXPECT_TRUE(absl::IsUnavailable(Ask(closes, 1).status()));
  }
  EXPECT_TRUE(absl::IsUnavailable(ReceiveDescriptors("/nonexistent/socket", std::string(16, 't'), 1,
                                                     absl::Now() + absl::Seconds(20))
                                      .status()));
}

TEST(Receive, DoesNotWaitForever) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const FakeDaemon silent([&](int) {
    char byte;
    EXPECT_EQ(read(reader.get(), &byte, 1), 0);  // until the test is over
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(ReceiveDescriptors(silent.path(), std::string(16, 't'), 1,
                                                          absl::Now() + absl::Milliseconds(30))
                                           .status()));
  writer.reset();
}

}  // namespace
}  // namespace gguf_offload::shm
