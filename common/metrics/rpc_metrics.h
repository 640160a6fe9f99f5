// Counts and times the calls of a gRPC server, under the names that other gRPC ecosystems use:
//
//   grpc_server_started_total{grpc_type,grpc_service,grpc_method}
//   grpc_server_handled_total{grpc_type,grpc_service,grpc_method,grpc_code}
//   grpc_server_handling_seconds{grpc_type,grpc_service,grpc_method}          (histogram)
//
// A call is handled when its status is handed to gRPC, so that a client that has seen the status
// finds the call counted; the code is the one the method gave, also if the client was gone by then.
// A call that ends without a status of its own was cancelled and counts as CANCELLED.
//
// Methods that no linked service has are counted together, as method "unknown" of service
// "unknown": clients cannot make up labels.
#ifndef COMMON_METRICS_RPC_METRICS_H_
#define COMMON_METRICS_RPC_METRICS_H_

#include <grpcpp/support/server_interceptor.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gguf_offload {

// Must outlive the servers that use its interceptors, as the registry must outlive it. Thread safe.
class RpcMetrics {
 public:
  explicit RpcMetrics(prometheus::Registry& registry);
  ~RpcMetrics();
  RpcMetrics(const RpcMetrics&) = delete;
  RpcMetrics& operator=(const RpcMetrics&) = delete;

  // Shows the methods of a service, "gguf_offload.v1.WeightService" for example, before their first
  // call, so that rates begin with it. Services that are not linked are ignored.
  void Announce(std::string_view service);

  // For grpc::ServerBuilder.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewInterceptorFactory();

 private:
  class Method;
  class Interceptor;
  class Factory;

  // The method of a call to `path`, "/service/method".
  Method& Find(std::string_view path);
  std::unique_ptr<Method> NewMethod(const char* type, std::string_view service,
                                    std::string_view method);

  prometheus::Family<prometheus::Counter>& started_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  std::unique_ptr<Method> unknown_;

  absl::Mutex mutex_;
  // By path; known methods only.
  std::map<std::string, std::unique_ptr<Method>, std::less<>> methods_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMMON_METRICS_RPC_METRICS_H_
