// All that a daemon shows at /metrics: what its parts register or collect, its calls, its process,
// its build, and whether it drains.
//
//   DaemonMetrics metrics("weightd");                  // before everything that is measured
//   metrics.Serve({"127.0.0.1", 9100});                // early: what happens at start is seen
//   ...builder.experimental().SetInterceptorCreators({metrics.rpc().NewInterceptorFactory()})
#ifndef COMMON_METRICS_DAEMON_METRICS_H_
#define COMMON_METRICS_DAEMON_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/registry.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/daemon/call_gate.h"
#include "common/daemon/host_port.h"
#include "common/metrics/metrics_server.h"
#include "common/metrics/process_metrics.h"
#include "common/metrics/rpc_metrics.h"

namespace gguf_offload {

// Metrics are kept whether they are served or not. Must outlive what is measured, and the gRPC
// server. Thread safe.
class DaemonMetrics {
 public:
  // `gate` says whether the daemon drains; it must outlive this.
  DaemonMetrics(std::string_view program, const CallGate* gate);
  ~DaemonMetrics();

  // Serves Text over HTTP from now on. Once. UNAVAILABLE if the address cannot be bound.
  absl::Status Serve(const HostPort& listen);
  // Where, with the port in force; nothing if it is not served.
  std::optional<HostPort> address() const;

  // For numbers that are counted when something happens.
  prometheus::Registry& registry() { return registry_; }
  RpcMetrics& rpc() { return rpc_; }
  // For numbers that are read when they are asked for: called on the thread of a scrape, so it must
  // be quick and must not wait for work in progress.
  void Add(std::weak_ptr<const prometheus::Collectable> collectable);

  // Everything, in Prometheus's text format, sorted by name.
  std::string Text() const;

 private:
  std::vector<prometheus::MetricFamily> OfDaemon() const;

  const std::string program_;
  const CallGate* const gate_;
  prometheus::Registry registry_;
  RpcMetrics rpc_;
  ProcessMetrics process_;
  mutable absl::Mutex mutex_;
  std::vector<std::weak_ptr<const prometheus::Collectable>> collectables_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<MetricsServer> server_;  // last, so that it ends first
};

}  // namespace gguf_offload

#endif  // COMMON_METRICS_DAEMON_METRICS_H_
