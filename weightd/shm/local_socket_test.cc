#include "weightd/shm/local_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "weightd/shm/receive.h"
#include "weightd/shm/ticket_book.h"

namespace gguf_offload::shm {
namespace {

using store::UniqueFd;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class LocalSocketTest : public ::testing::Test {
 protected:
  LocalSocketTest() {
    // Short, and open to other users: the test's own folder is neither.
    char pattern[] = "/tmp/gguf-socket-XXXXXX";
    folder_ = mkdtemp(pattern);
    EXPECT_EQ(chmod(folder_.c_str(), 0755), 0);
    options_.path = folder_ + "/weightd.sock";
    options_.on_grpc = [this](UniqueFd fd) {
      absl::MutexLock lock(&mutex_);
      grpc_.push_back(std::move(fd));
    };
    options_.redeem = [this](const Ticket& ticket) { return book_.Redeem(ticket); };
    options_.on_handoff = [this](HandoffResult result, size_t descriptors) {
      absl::MutexLock lock(&mutex_);
      results_.push_back(result);
      handed_out_ += descriptors;
    };
    SetLogSink([this](std::string_view line) {
      absl::MutexLock lock(&mutex_);
      log_.emplace_back(line);
    });
  }
  ~LocalSocketTest() override {
    socket_.reset();
    SetLogSink(nullptr);
    EXPECT_EQ(rmdir(folder_.c_str()), 0) << "the socket file was left behind";
  }

  void Start() {
    auto socket = LocalSocket::Start(options_);
    ASSERT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
  }

  UniqueFd Connect() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options_.path.c_str());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
        << strerror(errno);
    return fd;
  }

  // Whether the other side closes the connection without having sent anything.
  static bool Closed(const UniqueFd& fd) {
    pollfd polled{fd.get(), POLLIN, 0};
    char byte;
    if (poll(&polled, 1, 20000) != 1) return false;
    const ssize_t n = read(fd.get(), &byte, 1);
    return n == 0 || (n < 0 && errno == ECONNRESET);
  }

  size_t GrpcConnections() {
    absl::MutexLock lock(&mutex_);
    return grpc_.size();
  }
  bool WaitForGrpc(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return grpc_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  }
  int LogLinesWith(const char* text) {
    absl::MutexLock lock(&mutex_);
    int count = 0;
    for (const std::string& line : log_) count += line.find(text) != std::string::npos;
    return count;
  }

  // A ticket for `count` files that contain their own index.
  std::string IssueFiles(int count) {
    auto files = std::make_shared<std::vector<UniqueFd>>();
    Handoff handoff{{}, files, "demo"};
    for (int i = 0; i < count; ++i) {
      const std::string path = folder_ + "/file";
      std::ofstream(path) << i;
      files->emplace_back(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      unlink(path.c_str());
      handoff.descriptors.push_back(files->back().get());
    }
    return Issue(std::move(handoff));
  }
  std::string Issue(Handoff handoff) {
    const auto ticket = book_.Issue(std::move(handoff));
    EXPECT_TRUE(ticket.ok());
    return std::string(reinterpret_cast<const char*>(ticket->data()), ticket->size());
  }

  std::string folder_;
  TicketBook book_;
  absl::Mutex mutex_;
  std::vector<UniqueFd> grpc_;
  std::vector<std::string> log_;
  std::vector<HandoffResult> results_;
  size_t handed_out_ = 0;
  LocalSocket::Options options_;
  std::unique_ptr<LocalSocket> socket_;
};

TEST_F(LocalSocketTest, PassesHttp2OnUnread) {
  Start();
  const UniqueFd fd = Connect();
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore";
  ASSERT_EQ(write(fd.get(), preface.data(), preface.size()), ssize_t(preface.size()));
  ASSERT_TRUE(WaitForGrpc(1));
  char seen[64];
  const ssize_t n = read(grpc_[0].get(), seen, sizeof(seen));
  EXPECT_EQ(std::string(seen, size_t(n)), preface);
  EXPECT_NE(fcntl(grpc_[0].get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(socket_->undecided(), 0u);
}

TEST_F(LocalSocketTest, HandsOutDescriptorsInOrderAndOverSeveralMessages) {
  Start();
  constexpr int kCount = 2 * kBatch + 3;
  const std::string ticket = IssueFiles(kCount);
  const auto received = ReceiveDescriptors(options_.path, ticket, kCount, Soon());
  ASSERT_TRUE(received.ok()) << received.status();
  ASSERT_EQ(received->size(), size_t(kCount));
  for (int i = 0; i < kCount; ++i) {
    const int fd = (*received)[i].get();
    char text[16] = {};
    EXPECT_GT(pread(fd, text, sizeof(text), 0), 0);
    EXPECT_EQ(atoi(text), i);
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_TRUE(
      absl::IsPermissionDenied(ReceiveDescriptors(options_.path, ticket, kCount, Soon()).status()));
  socket_.reset();
  EXPECT_EQ(results_, (std::vector{HandoffResult::kOk, HandoffResult::kBadTicket}));
  EXPECT_EQ(handed_out_, size_t(kCount));
}

TEST_F(LocalSocketTest, TellsOfAPeerThatLeavesBeforeItHasAll) {
  Start();
  // More than a connection holds.
  const std::string ticket = IssueFiles(50 * kBatch);
  UniqueFd leaves = Connect();
  const std::string request = "GOFD" + ticket;
  ASSERT_EQ(write(leaves.get(), request.data(), request.size()), ssize_t(request.size()));
  char reply[kReplyBytes];
  ASSERT_EQ(read(leaves.get(), reply, sizeof(reply)), ssize_t(sizeof(reply)));
  leaves = UniqueFd();
  // Served by the same thread, after that.
  ASSERT_TRUE(ReceiveDescriptors(options_.path, IssueFiles(1), 1, Soon()).ok());
  socket_.reset();
  EXPECT_EQ(results_, (std::vector{HandoffResult::kAborted, HandoffResult::kOk}));
  EXPECT_EQ(handed_out_, 1u);
}

TEST_F(LocalSocketTest, WarnsOnceWhenTheWorkerCouldWriteTheFiles) {
  Start();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(ReceiveDescriptors(options_.path, IssueFiles(1), 1, Soon()).ok());
  }
  EXPECT_EQ(LogLinesWith("may write the model's files"), 1);
}

TEST_F(LocalSocketTest, RefusesAWrongTicketAndAWrongCount) {
  Start();
  EXPECT_TRUE(absl::IsPermissionDenied(
      ReceiveDescriptors(options_.path, std::string(16, 'x'), 1, Soon()).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      ReceiveDescriptors(options_.path, IssueFiles(2), 3, Soon()).status()));
}

TEST_F(LocalSocketTest, Case32_DoesNotHandOutAnUnsealedMemfd) {
  Start();
  auto memfd = std::make_shared<UniqueFd>(memfd_create("weights", MFD_CLOEXEC));
  auto reopened = std::make_shared<UniqueFd>(
      open(("/proc/self/fd/" + std::to_string(memfd->get())).c_str(), O_RDONLY | O_CLOEXEC));
  const std::string ticket = Issue({{reopened->get()}, reopened, "demo"});
  EXPECT_TRUE(
      absl::IsFailedPrecondition(ReceiveDescriptors(options_.path, ticket, 1, Soon()).status()));
  EXPECT_EQ(LogLinesWith("not fully sealed"), 1);
  socket_.reset();
  EXPECT_EQ(results_, std::vector{HandoffResult::kNotShareable});
}

TEST_F(LocalSocketTest, Case30_PeersOfOtherUsersAreClosedUnlessAllowed) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  constexpr uid_t kNobody = 65534;
  // Runs as nobody: exits with 0 if the daemon answered, 1 if it closed, others if it went wrong.
  const auto ask_as_nobody = [&] {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options_.path.c_str());
    const pid_t child = fork();
    if (child == 0) {
      if (setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(9);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) _exit(2);
      char request[kRequestBytes] = {'G', 'O', 'F', 'D'};
      if (send(fd, request, sizeof(request), MSG_NOSIGNAL) < 0) _exit(1);
      char reply[kReplyBytes];
      const ssize_t n = read(fd, reply, sizeof(reply));
      _exit(n == ssize_t(sizeof(reply)) ? 0 : n <= 0 ? 1 : 3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  Start();
  const int refused_by_mode = ask_as_nobody();
  if (refused_by_mode == 9) GTEST_SKIP() << "this sandbox has one user only";
  EXPECT_EQ(refused_by_mode, 2);
  ASSERT_EQ(chmod(options_.path.c_str(), 0666), 0);
  EXPECT_EQ(ask_as_nobody(), 1);
  EXPECT_EQ(LogLinesWith("user that is not allowed"), 1);
  socket_.reset();
  EXPECT_EQ(results_, std::vector{HandoffResult::kWrongUser});

  options_.allowed_uids = {kNobody};
  Start();
  EXPECT_EQ(ask_as_nobody(), 0);
}

TEST_F(LocalSocketTest, Case31_GarbageIsClosed) {
  Start();
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(100000, '\xff'), std::string("GOFX"),
        std::string(1, '\0'), std::string("\x16\x03\x01")}) {
    const UniqueFd fd = Connect();
    ASSERT_GT(send(fd.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
    EXPECT_TRUE(Closed(fd)) << garbage.substr(0, 20);
  }
  EXPECT_EQ(GrpcConnections(), 0u);
  EXPECT_EQ(socket_->undecided(), 0u);
}

TEST_F(LocalSocketTest, Case31_DescriptorsThatAPeerSendsAreDropped) {
  Start();
  for (const char* start : {"PRI * HTTP/2.0", "GOFD0123456789abcdef"}) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    UniqueFd reader(ends[0]), writer(ends[1]);
    const UniqueFd fd = Connect();
    iovec piece{const_cast<char*>(start), strlen(start)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int sent = writer.get();
    std::memcpy(CMSG_DATA(header), &sent, sizeof(sent));
    ASSERT_GT(sendmsg(fd.get(), &message, MSG_NOSIGNAL), 0);
    writer.reset();
    EXPECT_TRUE(Closed(fd));
    // The pipe ends once nobody holds its writing end any more.
    EXPECT_TRUE(Closed(reader));
  }
  EXPECT_EQ(GrpcConnections(), 0u);
}

TEST_F(LocalSocketTest, SilentAndSlowPeersAreClosedAfterTheTimeout) {
  options_.peer_timeout = absl::Milliseconds(50);
  Start();
  const UniqueFd silent = Connect();
  const UniqueFd slow = Connect();
  ASSERT_EQ(write(slow.get(), "GOFD012", 7), 7);
  const UniqueFd half = Connect();
  ASSERT_EQ(write(half.get(), "PR", 2), 2);
  EXPECT_TRUE(Closed(silent));
  EXPECT_TRUE(Closed(slow));
  EXPECT_TRUE(Closed(half));
}

TEST_F(LocalSocketTest, ARequestInPiecesIsServed) {
  Start();
  const UniqueFd fd = Connect();
  ASSERT_EQ(write(fd.get(), "P", 1), 1);
  while (socket_->undecided() == 0) sched_yield();
  ASSERT_EQ(write(fd.get(), "RI * ", 5), 5);
  EXPECT_TRUE(WaitForGrpc(1));
}

TEST_F(LocalSocketTest, AFloodOfSilentPeersKeepsNobodyOut) {
  options_.max_undecided = 8;
  Start();
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 100; ++i) silent.push_back(Connect());
  ASSERT_TRUE(ReceiveDescriptors(options_.path, IssueFiles(1), 1, Soon()).ok());
  EXPECT_LE(socket_->undecided(), 8u);
  EXPECT_TRUE(Closed(silent[0]));
}

TEST_F(LocalSocketTest, Case40_LivesThroughAShortageOfDescriptors) {
  Start();
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd waiting = Connect();
  while (socket_->undecided() == 0) sched_yield();
  UniqueFd next(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(next.get() + 1);  // nothing can be opened any more
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, options_.path.c_str());
  const int connected = connect(next.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  const absl::Time deadline = Soon();
  while (LogLinesWith("cannot accept connections") == 0 && absl::Now() < deadline) sched_yield();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(connected, 0);
  EXPECT_GE(LogLinesWith("cannot accept connections"), 1);
  ASSERT_EQ(write(next.get(), "PRI * HTTP/2.0", 14), 14);
  EXPECT_TRUE(WaitForGrpc(1));
}

TEST_F(LocalSocketTest, TheFileIsPrivateUnlessOthersAreAllowed) {
  Start();
  struct stat info;
  ASSERT_EQ(stat(options_.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  socket_.reset();
  options_.allowed_uids = {12345};
  Start();
  ASSERT_EQ(stat(options_.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666u);
}

TEST_F(LocalSocketTest, ReplacesAStaleFileButNoLiveSocketAndNoOtherFile) {
  {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options_.path.c_str());
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  Start();
  EXPECT_TRUE(absl::IsAlreadyExists(LocalSocket::Start(options_).status()));
  socket_.reset();
  std::ofstream(options_.path) << "precious";
  EXPECT_TRUE(absl::IsAlreadyExists(LocalSocket::Start(options_).status()));
  ASSERT_EQ(unlink(options_.path.c_str()), 0);
  auto too_long = options_;
  too_long.path = "/tmp/" + std::string(200, 'x');
  EXPECT_TRUE(absl::IsInvalidArgument(LocalSocket::Start(too_long).status()));
}

}  // namespace
}  // namespace gguf_offload::shm
