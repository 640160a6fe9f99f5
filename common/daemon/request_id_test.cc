#include "common/daemon/request_id.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/daemon/client_identity.h"
#include "common/daemon/daemon.h"
#include "common/log/log.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload {
namespace {

// Ping's answer is the id that the method sees.
class EchoService final : public v1::DiagnosticsService::CallbackService {
  grpc::ServerUnaryReactor* Ping(grpc::CallbackServerContext* context, const v1::PingRequest*,
                                 v1::PingResponse* response) override {
    response->set_payload(RequestIdOf(*context));
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

class RequestIdTest : public ::testing::Test {
 protected:
  RequestIdTest() {
    daemon_ = *Daemon::Start({.listen = {"127.0.0.1", 0}, .services = {&service_}, .gate = &gate_});
    stub_ = v1::DiagnosticsService::NewStub(
        grpc::CreateChannel(daemon_->address().ToString(), grpc::InsecureChannelCredentials()));
  }

  // What the method saw and what came back as metadata.
  std::pair<std::string, std::string> Ping(const std::vector<std::string>& ids) {
    grpc::ClientContext context;
    for (const std::string& id : ids) context.AddMetadata(kRequestIdKey, id);
    v1::PingResponse response;
    EXPECT_TRUE(stub_->Ping(&context, {}, &response).ok());
    const auto& metadata = context.GetServerInitialMetadata();
    EXPECT_EQ(metadata.count(kRequestIdKey), 1u);
    const grpc::string_ref id = metadata.find(kRequestIdKey)->second;
    return {response.payload(), std::string(id.data(), id.size())};
  }

  CallGate gate_;
  EchoService service_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<v1::DiagnosticsService::Stub> stub_;
};

TEST_F(RequestIdTest, TheClientsIdIsKept) {
  EXPECT_EQ(Ping({"job-7/a:b"}), (std::pair<std::string, std::string>("job-7/a:b", "job-7/a:b")));
}

TEST_F(RequestIdTest, WithoutOneTheServerMakesOneUp) {
  const auto [seen, sent] = Ping({});
  EXPECT_EQ(seen, sent);
  EXPECT_EQ(seen.size(), 32u);
  EXPECT_NE(Ping({}).first, seen);
}

TEST_F(RequestIdTest, NonsenseIsReplaced) {
  for (const std::string& bad : {std::string("a b"), std::string(129, 'x'), std::string("\"}")}) {
    const auto [seen, sent] = Ping({bad});
    EXPECT_EQ(seen, sent);
    EXPECT_TRUE(IsRequestId(seen));
    EXPECT_NE(seen, bad);
  }
}

TEST_F(RequestIdTest, TheEndOfACallIsLoggedWithIt) {
  std::mutex mutex;
  std::vector<std::string> lines;
  SetLogSink([&](std::string_view line) {
    const std::lock_guard<std::mutex> lock(mutex);
    lines.emplace_back(line);
  });
  SetLogLevel(LogLevel::kDebug);
  Ping({"job-8"});
  daemon_.reset();  // the call's record is written when gRPC lets go of it
  SetLogLevel(LogLevel::kInfo);
  SetLogSink(nullptr);
  int found = 0;
  for (const std::string& line : lines) {
    if (line.find("DEBUG call ended method=/gguf_offload.v1.DiagnosticsService/Ping code=OK") ==
        std::string::npos) {
      continue;
    }
    ++found;
    EXPECT_NE(line.find("client=127.0.0.1 request_id=job-8"), std::string::npos) << line;
  }
  EXPECT_EQ(found, 1);
}

TEST(ClientIdentity, IsTheAddressWithoutThePort) {
  EXPECT_EQ(AddressOfPeer("ipv4:10.1.2.3:4711"), "10.1.2.3");
  EXPECT_EQ(AddressOfPeer("ipv6:%5B::1%5D:4711"), "::1");
  EXPECT_EQ(AddressOfPeer("ipv6:[fe80::1]:4711"), "fe80::1");
  EXPECT_EQ(AddressOfPeer("unix:/run/x.sock"), "");
  EXPECT_EQ(AddressOfPeer("unix:"), "");
}

}  // namespace
}  // namespace gguf_offload
