#include "common/daemon/daemon.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload {
namespace {

// Ping blocks until it is released.
class SlowService final : public v1::DiagnosticsService::Service {
 public:
  explicit SlowService(CallGate* gate) : gate_(gate) {}

  grpc::Status Ping(grpc::ServerContext* context, const v1::PingRequest*,
                    v1::PingResponse*) override {
    const auto pass = gate_->Enter("");
    if (!pass.ok()) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
    started.Notify();
    while (!release.WaitForNotificationWithTimeout(absl::Milliseconds(5))) {
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
    }
    return grpc::Status::OK;
  }

  absl::Notification started, release;

 private:
  CallGate* const gate_;
};

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() : service_(&gate_) {
    auto daemon = Daemon::Start(
        {.listen = {"127.0.0.1", 0}, .services = {&service_}, .gate = &gate_, .on_drain = [this] {
           drained_ = true;
         }});
    daemon_ = *std::move(daemon);
    daemon_->SetServing();
    stub_ = v1::DiagnosticsService::NewStub(
        grpc::CreateChannel(daemon_->address().ToString(), grpc::InsecureChannelCredentials()));
  }

  grpc::Status Ping() {
    grpc::ClientContext context;
    v1::PingResponse response;
    return stub_->Ping(&context, {}, &response);
  }

  CallGate gate_;
  SlowService service_;
  bool drained_ = false;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<v1::DiagnosticsService::Stub> stub_;
};

TEST_F(DaemonTest, PicksAPort) { EXPECT_GT(daemon_->address().port, 0); }

TEST_F(DaemonTest, RefusesAnAddressInUse) {
  CallGate gate;
  const auto second = Daemon::Start({.listen = daemon_->address(), .gate = &gate});
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  service_.release.Notify();
}

TEST_F(DaemonTest, RunningCallsFinishWithinTheGracePeriodAndNewOnesAreRefused) {
  grpc::Status first;
  std::thread call([&] { first = Ping(); });
  service_.started.WaitForNotification();
  bool clean = false;
  std::thread stop([&] { clean = daemon_->Stop(absl::Seconds(30)); });
  while (!gate_.draining()) std::this_thread::yield();
  EXPECT_EQ(Ping().error_code(), grpc::StatusCode::UNAVAILABLE);
  service_.release.Notify();
  call.join();
  stop.join();
  EXPECT_TRUE(first.ok()) << first.error_message();
  EXPECT_TRUE(clean);
  EXPECT_TRUE(drained_);
}

// Without the server's consent gRPC ends such a connection at the third ping.
TEST_F(DaemonTest, ClientsMayPingEveryFiveSeconds) {
  const auto pinging_channel = [this] {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 5000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    return grpc::CreateCustomChannel(daemon_->address().ToString(),
                                     grpc::InsecureChannelCredentials(), arguments);
  };
  const auto later = [](int seconds) {
    return std::chrono::system_clock::now() + std::chrono::seconds(seconds);
  };
  const auto idle = pinging_channel();
  ASSERT_TRUE(idle->WaitForConnected(later(30)));
  stub_ = v1::DiagnosticsService::NewStub(pinging_channel());
  grpc::Status waiting;
  std::thread call([&] { waiting = Ping(); });
  EXPECT_FALSE(idle->WaitForStateChange(GRPC_CHANNEL_READY, later(27)));
  service_.release.Notify();
  call.join();
  EXPECT_TRUE(waiting.ok()) << waiting.error_message();
}

TEST_F(DaemonTest, CallsAreCancelledAfterTheGracePeriod) {
  grpc::Status first;
  std::thread call([&] { first = Ping(); });
  service_.started.WaitForNotification();
  EXPECT_FALSE(daemon_->Stop(absl::Milliseconds(1)));
  call.join();
  EXPECT_FALSE(first.ok());
}

}  // namespace
}  // namespace gguf_offload
