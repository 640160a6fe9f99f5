// The daemon and workers as processes: what happens when one of them is killed.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "weightd/client/weight_source.h"
#include "weightd/service/testing/test_daemon.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

constexpr size_t kLarge = 32 << 20;

// A child process whose standard output is read. Killed at the end.
class Process {
 public:
  explicit Process(const std::vector<std::string>& words) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~Process() {
    Kill(SIGKILL);
    close(output_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The next line it prints; empty if it ends.
  std::string ReadLine() {
    std::string line;
    char c;
    while (read(output_, &c, 1) == 1 && c != '\n') line.push_back(c);
    return line;
  }
  // Sends a signal and waits for the end; the exit code, or minus the signal that ended it.
  int Kill(int signal) {
    if (pid_ <= 0) return result_;
    kill(pid_, signal);
    return Wait();
  }
  void Signal(int signal) { kill(pid_, signal); }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    result_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return result_;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  int result_ = 0;
};

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() : file_(TwoTensorModel(kLarge)) {
    folder_.Write("m.gguf", file_);
    char pattern[] = "/tmp/weightd-process-XXXXXX";
    socket_folder_ = mkdtemp(pattern);
  }
  ~ProcessTest() override {
    daemon_.reset();
    unlink(socket().c_str());
    rmdir(socket_folder_.c_str());
  }
  std::string socket() const { return socket_folder_ + "/s"; }

  // Starts the daemon, the second time on the port of the first.
  void StartDaemon(const std::vector<std::string>& flags = {}) {
    std::vector<std::string> words = {
        "weightd/weightd", absl::StrCat("--model=m=", folder_.Path("m.gguf")),
        absl::StrCat("--listen=", address_), absl::StrCat("--socket=", socket())};
    words.insert(words.end(), flags.begin(), flags.end());
    daemon_ = std::make_unique<Process>(words);
    const std::string line = daemon_->ReadLine();
    ASSERT_TRUE(absl::StartsWith(line, "listening on ")) << line;
    address_ = line.substr(13);
    diagnostics_ = v1::DiagnosticsService::NewStub(TestDaemon::NewChannel(address_));
  }
  std::unique_ptr<WeightSource> Attach(const std::string& address) {
    auto source = WeightSource::Attach({.address = address, .model = "m", .worker = "tester"});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *std::move(source) : nullptr;
  }
  bool HasSession(const std::string& peer) {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    if (!diagnostics_->ListSessions(&context, {}, &response).ok()) return false;
    for (const v1::Session& session : response.sessions()) {
      if (session.peer() == peer) return true;
    }
    return false;
  }

  store::TempFolder folder_;
  const std::string file_;
  std::string socket_folder_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<v1::DiagnosticsService::Stub> diagnostics_;
};

TEST_F(ProcessTest, Case37_ASharedMemoryWorkerServesOnWhenTheDaemonIsKilled) {
  StartDaemon();
  const auto source = Attach(absl::StrCat("unix:", socket()));
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(daemon_->Kill(SIGKILL), -SIGKILL);
  EXPECT_TRUE(Eventually([&] { return !source->attached(); }));
  EXPECT_EQ(std::memcmp(source->MappedShard(0), file_.data(), file_.size()), 0);
  std::string read(file_.size(), '?');
  EXPECT_TRUE(source
                  ->Read({{0, 0, read.size(), reinterpret_cast<uint8_t*>(read.data())}},
                         absl::Now() + absl::Seconds(60))
                  .ok());
  EXPECT_TRUE(read == file_);
  EXPECT_TRUE(source->CheckIntact().ok());
  // The successor takes the dead daemon's socket over, and the worker comes back.
  StartDaemon();
  EXPECT_TRUE(Eventually([&] { return source->attached(); }));
  EXPECT_TRUE(HasSession("tester"));
}

TEST_F(ProcessTest, Case37_StreamedReadsResumeWhenTheDaemonIsKilledAndRestarted) {
  StartDaemon();
  const auto source = Attach(address_);
  ASSERT_NE(source, nullptr);
  constexpr int kReads = 12;
  std::string read(kReads * file_.size(), '?');
  std::atomic<int> ended = 0, failed = 0;
  absl::Notification all;
  for (int i = 0; i < kReads; ++i) {
    source->ReadAsync({{0, 0, file_.size(), reinterpret_cast<uint8_t*>(&read[i * file_.size()])}},
                      absl::Now() + absl::Seconds(60), [&](absl::Status status) {
                        if (!status.ok()) ++failed;
                        if (++ended == kReads) all.Notify();
                      });
  }
  ASSERT_TRUE(Eventually([&] { return source->bytes_received() > (4u << 20); }));
  EXPECT_EQ(daemon_->Kill(SIGKILL), -SIGKILL);
  EXPECT_LT(source->bytes_received(), read.size()) << "the daemon was killed too late";
  StartDaemon();
  ASSERT_TRUE(all.WaitForNotificationWithTimeout(absl::Seconds(120)));
  EXPECT_EQ(failed, 0);
  for (int i = 0; i < kReads; ++i) {
    EXPECT_EQ(std::memcmp(&read[i * file_.size()], file_.data(), file_.size()), 0) << i;
  }
}

TEST_F(ProcessTest, Case38_TheLeaseOfAKilledWorkerIsGone) {
  StartDaemon();
  for (const std::string& address : {absl::StrCat("unix:", socket()), address_}) {
    Process worker({"weightd/client/testing/hold_lease", address, "m", "the-worker"});
    ASSERT_EQ(worker.ReadLine(), "attached");
    EXPECT_TRUE(HasSession("the-worker"));
    worker.Kill(SIGKILL);
    EXPECT_TRUE(Eventually([this] { return !HasSession("the-worker"); }));
  }
}

TEST_F(ProcessTest, Case41_SigtermUnderLoadFailsNoReadWithinTheGracePeriod) {
  StartDaemon();
  // A stream of raw calls that were begun before the signal.
  const auto stub = v1::WeightService::NewStub(TestDaemon::NewChannel(address_));
  grpc::ClientContext context;
  v1::ReadBlocksRequest request;
  request.set_model("m");
  request.set_tensor("large");
  const auto reader = stub->ReadBlocks(&context, request);
  v1::ReadBlocksResponse response;
  ASSERT_TRUE(reader->Read(&response));
  uint64_t received = response.data().size();
  daemon_->Signal(SIGTERM);
  const auto late_stub = v1::WeightService::NewStub(TestDaemon::NewChannel(address_));
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext late_context;
    v1::ListModelsResponse models;
    return late_stub->ListModels(&late_context, {}, &models).error_code() ==
           grpc::StatusCode::UNAVAILABLE;
  }));
  while (reader->Read(&response)) received += response.data().size();
  EXPECT_EQ(received, kLarge);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(daemon_->Wait(), 0);
  EXPECT_NE(access(socket().c_str(), F_OK), 0) << "the socket file was left behind";
}

TEST_F(ProcessTest, ASecondSignalEndsTheGracePeriod) {
  StartDaemon();
  const auto stub = v1::WeightService::NewStub(TestDaemon::NewChannel(address_));
  grpc::ClientContext context;
  v1::ReadBlocksRequest request;
  request.set_model("m");
  request.set_tensor("large");
  const auto reader = stub->ReadBlocks(&context, request);
  v1::ReadBlocksResponse response;
  ASSERT_TRUE(reader->Read(&response));
  daemon_->Signal(SIGTERM);
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext ping_context;
    v1::PingResponse ping;
    return diagnostics_->Ping(&ping_context, {}, &ping).ok() && ping.draining();
  }));
  EXPECT_EQ(daemon_->Kill(SIGTERM), 0);
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

// Calls a unary method of which this program has no generated code: request and response as bytes.
grpc::Status CallRaw(const std::string& address, const std::string& method,
                     const std::string& request, std::string& response) {
  grpc::GenericStub stub(TestDaemon::NewChannel(address));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer bytes;
  grpc::Status status;
  call->Finish(&bytes, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (status.ok() && bytes.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) response.append(part.begin(), part.end());
  }
  return status;
}

TEST_F(ProcessTest, HealthAndReflectionAnswer) {
  StartDaemon();
  for (const std::string& address : {address_, absl::StrCat("unix:", socket())}) {
    // grpc.health.v1.HealthCheckRequest.service = 1; HealthCheckResponse.status = 1, SERVING = 1.
    for (const std::string service : {"", "gguf_offload.v1.WeightService"}) {
      const std::string request =
          service.empty()
              ? ""
              : absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
      std::string response;
      const grpc::Status status =
          CallRaw(address, "/grpc.health.v1.Health/Check", request, response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(response, std::string("\x08\x01", 2)) << service;
    }
    std::string response;
    EXPECT_EQ(CallRaw(address, "/grpc.health.v1.Health/Check", "\x0a\x01x", response).error_code(),
              grpc::StatusCode::NOT_FOUND);
  }
  // ServerReflectionRequest.list_services = 7, over a stream.
  grpc::GenericStub stub(TestDaemon::NewChannel(address_));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag;
  bool ok = false;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice slice(std::string("\x3a\x00", 2));
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer bytes;
  call->Read(&bytes, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(bytes.Dump(&slices).ok());
  std::string answer;
  for (const grpc::Slice& part : slices) answer.append(part.begin(), part.end());
  EXPECT_THAT(answer, testing::HasSubstr("gguf_offload.v1.WeightService"));
  EXPECT_THAT(answer, testing::HasSubstr("gguf_offload.v1.DiagnosticsService"));
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
}

TEST_F(ProcessTest, BadFlagsAreOneLineAndExitCodeOne) {
  for (const std::string flag : {"--listen=nowhere", "--model=x", "--residency=hot",
                                 "--allow-uid=root", "--stream-timeout=0s", "--unknown", "stray"}) {
    Process process({"weightd/weightd", "--listen=127.0.0.1:0", flag});
    EXPECT_EQ(process.ReadLine(), "");
    EXPECT_EQ(process.Wait(), 1) << flag;
  }
}

}  // namespace
}  // namespace gguf_offload
