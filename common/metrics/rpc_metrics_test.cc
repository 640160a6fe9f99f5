#include "common/metrics/rpc_metrics.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"
#include "gguf_offload/v1/weights.grpc.pb.h"

namespace gguf_offload {
namespace {

// Answers, fails, or never ends, as asked.
class TestService : public v1::DiagnosticsService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Ping(grpc::CallbackServerContext* context, const v1::PingRequest*,
                                 v1::PingResponse*) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerUnaryReactor* GetConfig(grpc::CallbackServerContext* context,
                                      const v1::GetConfigRequest*,
                                      v1::GetConfigResponse*) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish({grpc::StatusCode::FAILED_PRECONDITION, "no"});
    return reactor;
  }
  grpc::ServerWriteReactor<v1::CaptureTraceResponse>* CaptureTrace(
      grpc::CallbackServerContext*, const v1::CaptureTraceRequest*) override {
    class Stream : public grpc::ServerWriteReactor<v1::CaptureTraceResponse> {
     public:
      Stream() { StartWrite(&response_); }
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }

     private:
      v1::CaptureTraceResponse response_;
    };
    return new Stream;
  }
};

class RpcMetricsTest : public ::testing::Test {
 protected:
  RpcMetricsTest() {
    grpc::EnableDefaultHealthCheckService(true);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(metrics_.NewInterceptorFactory());
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.experimental().SetInterceptorCreators(std::move(creators));
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
    stub_ = v1::DiagnosticsService::NewStub(channel_);
  }

  grpc::Status Ping() {
    grpc::ClientContext context;
    v1::PingResponse response;
    return stub_->Ping(&context, {}, &response);
  }

  // A unary call of any method.
  grpc::StatusCode Call(const std::string& path) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::ByteBuffer request, response;
    grpc::Status status;
    absl::Notification done;
    const grpc::Slice slice("");
    request = grpc::ByteBuffer(&slice, 1);
    stub.UnaryCall(&context, path, {}, &request, &response, [&](grpc::Status result) {
      status = std::move(result);
      done.Notify();
    });
    done.WaitForNotification();
    return status.error_code();
  }

  // The series of a family: "label=value,..." without the type, and the value or, of a histogram,
  // the number of observations.
  std::map<std::string, double> Series(const std::string& name) {
    std::map<std::string, double> series;
    for (const prometheus::MetricFamily& family : registry_.Collect()) {
      if (family.name != name) continue;
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::map<std::string, std::string> labels;
        for (const auto& label : metric.label) labels[label.name] = label.value;
        types_[labels["grpc_method"]] = labels["grpc_type"];
        services_.insert(labels["grpc_service"]);
        std::string key = labels["grpc_method"];
        if (labels.contains("grpc_code")) key += " " + labels["grpc_code"];
        series[key] = family.type == prometheus::MetricType::Histogram
                          ? static_cast<double>(metric.histogram.sample_count)
                          : metric.counter.value;
      }
    }
    return series;
  }

  prometheus::Registry registry_;
  RpcMetrics metrics_{registry_};
  TestService service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DiagnosticsService::Stub> stub_;
  std::map<std::string, std::string> types_;
  std::set<std::string> services_;
};

TEST_F(RpcMetricsTest, CountsByMethodAndCode) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Ping().ok());
  grpc::ClientContext context;
  v1::GetConfigResponse response;
  EXPECT_EQ(stub_->GetConfig(&context, {}, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  // No waiting: what a client has the status of is counted.
  auto handled = Series("grpc_server_handled_total");
  EXPECT_EQ(handled["Ping OK"], 3);
  EXPECT_EQ(handled["GetConfig FAILED_PRECONDITION"], 1);
  EXPECT_EQ(handled["GetConfig OK"], 0);
  auto started = Series("grpc_server_started_total");
  EXPECT_EQ(started["Ping"], 3);
  EXPECT_EQ(started["GetConfig"], 1);
  auto seconds = Series("grpc_server_handling_seconds");
  EXPECT_EQ(seconds["Ping"], 3);
  EXPECT_EQ(seconds["GetConfig"], 1);
  EXPECT_EQ(types_["Ping"], "unary");
  EXPECT_EQ(services_, (std::set<std::string>{"gguf_offload.v1.DiagnosticsService", "unknown"}));
}

TEST_F(RpcMetricsTest, ACancelledStreamCountsOnce) {
  {
    grpc::ClientContext context;
    const auto stream = stub_->CaptureTrace(&context, {});
    v1::CaptureTraceResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(Series("grpc_server_started_total")["CaptureTrace"], 1);
    EXPECT_EQ(Series("grpc_server_handling_seconds")["CaptureTrace"], 0);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  // The client knows before the server does.
  server_->Shutdown();
  server_->Wait();
  server_.reset();
  auto handled = Series("grpc_server_handled_total");
  EXPECT_EQ(handled["CaptureTrace CANCELLED"], 1);
  EXPECT_EQ(handled["CaptureTrace OK"], 0);
  EXPECT_EQ(Series("grpc_server_handling_seconds")["CaptureTrace"], 1);
  EXPECT_EQ(types_["CaptureTrace"], "server_stream");
}

TEST_F(RpcMetricsTest, ACallThatEndsWithoutStatusIsCancelled) {
  // The call stays within the method's base class, which answers UNIMPLEMENTED: has a status.
  EXPECT_EQ(Call("/gguf_offload.v1.DiagnosticsService/GetMemory"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Series("grpc_server_handled_total")["GetMemory UNIMPLEMENTED"], 1);
  // A malformed request never reaches a method.
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  const grpc::Slice slice("\xff\xff\xff not a message");
  grpc::ByteBuffer request(&slice, 1), response;
  absl::Notification done;
  stub.UnaryCall(&context, "/gguf_offload.v1.DiagnosticsService/Ping", {}, &request, &response,
                 [&](grpc::Status) { done.Notify(); });
  done.WaitForNotification();
  server_->Shutdown();
  server_->Wait();
  server_.reset();
  EXPECT_EQ(Series("grpc_server_started_total")["Ping"],
            Series("grpc_server_handling_seconds")["Ping"]);
}

TEST_F(RpcMetricsTest, UnknownMethodsMakeNoSeries) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Call("/gguf_offload.v1.DiagnosticsService/Made" + std::to_string(i)),
              grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(Call("/made.up.Service" + std::to_string(i) + "/Ping"),
              grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(Call("/gguf_offload.v1.DiagnosticsService.Ping"), grpc::StatusCode::UNIMPLEMENTED);
  auto started = Series("grpc_server_started_total");
  EXPECT_EQ(started.size(), 1u);
  EXPECT_EQ(started["unknown"], 41);
  EXPECT_EQ(Series("grpc_server_handling_seconds")["unknown"], 41);
}

TEST_F(RpcMetricsTest, HealthChecksAreCounted) {
  EXPECT_EQ(Call("/grpc.health.v1.Health/Check"), grpc::StatusCode::OK);
  EXPECT_EQ(Series("grpc_server_handled_total")["Check OK"], 1);
}

TEST_F(RpcMetricsTest, AnnouncedServicesBeginWithZero) {
  metrics_.Announce("gguf_offload.v1.WeightService");
  metrics_.Announce("no.such.Service");
  auto started = Series("grpc_server_started_total");
  ASSERT_TRUE(started.contains("StreamBlocks"));
  EXPECT_EQ(started["StreamBlocks"], 0);
  EXPECT_EQ(Series("grpc_server_handled_total")["LoadModel OK"], 0);
  EXPECT_EQ(types_["StreamBlocks"], "bidi_stream");
  EXPECT_EQ(types_["VerifyModel"], "server_stream");
  EXPECT_EQ(started.size(),
            10u);  // its 9 methods and "unknown"
}

}  // namespace
}  // namespace gguf_offload
