// A weight daemon inside a test.
#ifndef WEIGHTD_SERVICE_TESTING_TEST_DAEMON_H_
#define WEIGHTD_SERVICE_TESTING_TEST_DAEMON_H_

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"
#include "gguf_offload/v1/weights.grpc.pb.h"
#include "kernels/quant/format.h"
#include "weightd/gguf/testing/gguf_builder.h"
#include "weightd/service/weight_daemon.h"

namespace gguf_offload {

// Asks until the answer is yes, for up to a minute.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
  }
  return true;
}

// A model file with two tensors, "small" of 1000 bytes and "large" of `bytes`.
inline std::string TwoTensorModel(size_t bytes, uint32_t seed = 1) {
  using gguf::GgufBuilder;
  return GgufBuilder()
      .String("general.architecture", "llama")
      .Tensor("small", quant::TensorType::kI8, {1000}, GgufBuilder::Pattern(1000, seed))
      .Tensor("large", quant::TensorType::kI8, {bytes}, GgufBuilder::Pattern(bytes, seed + 1))
      .Build();
}

// Has a Unix socket in a folder of its own, whose path is short enough.
class TestDaemon {
 public:
  explicit TestDaemon(WeightDaemon::Options options) {
    char pattern[] = "/tmp/weightd-test-XXXXXX";
    folder_ = mkdtemp(pattern);
    options.socket_path = folder_ + "/s";
    socket_path_ = options.socket_path;
    options_ = std::move(options);
    Start();
  }
  ~TestDaemon() {
    Stop();
    rmdir(folder_.c_str());
  }

  void Start() {
    auto daemon = WeightDaemon::Start(options_);
    if (!daemon.ok()) {
      std::fprintf(stderr, "%s\n", daemon.status().ToString().c_str());
      std::abort();
    }
    daemon_ = *std::move(daemon);
    daemon_->daemon().SetServing();
    options_.listen = daemon_->daemon().address();  // the same port after a restart
    weights_ = v1::WeightService::NewStub(NewChannel(tcp_address()));
    diagnostics_ = v1::DiagnosticsService::NewStub(NewChannel(tcp_address()));
  }
  void Stop() { daemon_.reset(); }

  static std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }

  std::string tcp_address() const { return options_.listen.ToString(); }
  std::string unix_address() const { return absl::StrCat("unix:", socket_path_); }
  const std::string& socket_path() const { return socket_path_; }
  WeightDaemon& daemon() { return *daemon_; }
  v1::WeightService::Stub& weights() { return *weights_; }

  std::vector<v1::Session> Sessions() {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    if (!diagnostics_->ListSessions(&context, {}, &response).ok()) return {};
    return {response.sessions().begin(), response.sessions().end()};
  }
  v1::DiagnosticsService::Stub& diagnostics() { return *diagnostics_; }

 private:
  std::string folder_;
  std::string socket_path_;
  WeightDaemon::Options options_;
  std::unique_ptr<WeightDaemon> daemon_;
  std::unique_ptr<v1::WeightService::Stub> weights_;
  std::unique_ptr<v1::DiagnosticsService::Stub> diagnostics_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_TESTING_TEST_DAEMON_H_
