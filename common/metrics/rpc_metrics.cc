#include "common/metrics/rpc_metrics.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gguf_offload {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

// By number (grpc/status.h).
constexpr std::array<const char*, 17> kCodes = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

// From a thousandth of a second to an hour: calls range from Ping to Attach.
const prometheus::Histogram::BucketBoundaries kBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600};

struct KnownMethod {
  std::string service;
  std::string method;
  const char* type;
};

const char* TypeOf(const MethodDescriptor& method) {
  if (method.client_streaming()) return method.server_streaming() ? "bidi_stream" : "client_stream";
  return method.server_streaming() ? "server_stream" : "unary";
}

std::optional<KnownMethod> FindMethod(std::string_view path) {
  // gRPC serves health checks without a descriptor.
  if (path == "/grpc.health.v1.Health/Check") return {{"grpc.health.v1.Health", "Check", "unary"}};
  if (path == "/grpc.health.v1.Health/Watch") {
    return {{"grpc.health.v1.Health", "Watch", "server_stream"}};
  }
  if (path.empty() || path[0] != '/') return std::nullopt;
  std::string name(path.substr(1));
  std::replace(name.begin(), name.end(), '/', '.');
  const MethodDescriptor* const method = DescriptorPool::generated_pool()->FindMethodByName(name);
  if (method == nullptr) return std::nullopt;
  // What has dots where it should have a slash is not a path.
  if (path != absl::StrCat("/", method->service()->full_name(), "/", method->name())) {
    return std::nullopt;
  }
  return {{method->service()->full_name(), method->name(), TypeOf(*method)}};
}

}  // namespace

// The series of one method.
class RpcMetrics::Method {
 public:
  Method(RpcMetrics& owner, prometheus::Labels labels)
      : handled_(owner.handled_),
        labels_(std::move(labels)),
        started_(owner.started_.Add(labels_)),
        seconds_(owner.seconds_.Add(labels_, kBuckets)) {
    Handled(grpc::StatusCode::OK);
  }

  void Start() { started_.Increment(); }

  void End(grpc::StatusCode code, absl::Duration took) {
    Handled(code).Increment();
    seconds_.Observe(absl::ToDoubleSeconds(took));
  }

 private:
  // The same series each time for the same code.
  prometheus::Counter& Handled(int code) {
    prometheus::Labels labels = labels_;
    labels["grpc_code"] = code >= 0 && code < static_cast<int>(kCodes.size())
                              ? kCodes[code]
                              : kCodes[grpc::StatusCode::UNKNOWN];
    return handled_.Add(labels);
  }

  prometheus::Family<prometheus::Counter>& handled_;
  const prometheus::Labels labels_;
  prometheus::Counter& started_;
  prometheus::Histogram& seconds_;
};

// One call. gRPC destroys it when nothing of the call is under way any more.
class RpcMetrics::Interceptor : public grpc::experimental::Interceptor {
 public:
  explicit Interceptor(Method& method) : method_(method), start_(absl::Now()) { method_.Start(); }
  ~Interceptor() override { End(grpc::StatusCode::CANCELLED); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      End(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  // The first code counts.
  void End(grpc::StatusCode code) {
    if (std::exchange(ended_, true)) return;
    method_.End(code, absl::Now() - start_);
  }

  Method& method_;
  const absl::Time start_;
  bool ended_ = false;
};

class RpcMetrics::Factory : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(RpcMetrics& owner) : owner_(owner) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new Interceptor(owner_.Find(info->method() == nullptr ? "" : info->method()));
  }

 private:
  RpcMetrics& owner_;
};

RpcMetrics::RpcMetrics(prometheus::Registry& registry)
    : started_(prometheus::BuildCounter()
                   .Name("grpc_server_started_total")
                   .Help("Calls that the server has begun to serve.")
                   .Register(registry)),
      handled_(prometheus::BuildCounter()
                   .Name("grpc_server_handled_total")
                   .Help("Calls that have ended, by status code.")
                   .Register(registry)),
      seconds_(prometheus::BuildHistogram()
                   .Name("grpc_server_handling_seconds")
                   .Help("Time from a call's arrival to its status.")
                   .Register(registry)),
      unknown_(NewMethod("unknown", "unknown", "unknown")) {}

RpcMetrics::~RpcMetrics() = default;

std::unique_ptr<RpcMetrics::Method> RpcMetrics::NewMethod(const char* type,
                                                          std::string_view service,
                                                          std::string_view method) {
  return std::make_unique<Method>(*this, prometheus::Labels{{"grpc_type", type},
                                                            {"grpc_service", std::string(service)},
                                                            {"grpc_method", std::string(method)}});
}

void RpcMetrics::Announce(std::string_view service) {
  const ServiceDescriptor* const descriptor =
      DescriptorPool::generated_pool()->FindServiceByName(std::string(service));
  if (descriptor == nullptr) return;
  for (int i = 0; i < descriptor->method_count(); ++i) {
    Find(absl::StrCat("/", descriptor->full_name(), "/", descriptor->method(i)->name()));
  }
}

std::unique_ptr<ServerInterceptorFactoryInterface> RpcMetrics::NewInterceptorFactory() {
  return std::make_unique<Factory>(*this);
}

RpcMetrics::Method& RpcMetrics::Find(std::string_view path) {
  absl::MutexLock lock(&mutex_);
  if (const auto it = methods_.find(path); it != methods_.end()) return *it->second;
  const std::optional<KnownMethod> known = FindMethod(path);
  if (!known.has_value()) return *unknown_;
  std::unique_ptr<Method> method = NewMethod(known->type, known->service, known->method);
  return *methods_.emplace(path, std::move(method)).first->second;
}

}  // namespace gguf_offload
