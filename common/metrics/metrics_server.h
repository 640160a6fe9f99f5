// The HTTP side of metrics: GET /metrics answers Prometheus's text format, GET /livez that the
// process is there.
//
// Who asks is not trusted: a request has a few KiB of header and no body, a connection serves one
// request and has a few seconds for it, and there are a few connections; when one more comes, the
// oldest is closed, so that silent clients cannot keep the scraper out.
#ifndef COMMON_METRICS_METRICS_SERVER_H_
#define COMMON_METRICS_METRICS_SERVER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/daemon/host_port.h"

namespace gguf_offload {

// Owns the listening socket and one thread, on which everything happens. Thread safe.
class MetricsServer {
 public:
  struct Options {
    HostPort listen;  // port 0 picks one
    // Makes the text of one answer; called on the server's thread.
    std::function<std::string()> text;
    size_t max_connections = 16;
    size_t max_header_bytes = 8 << 10;
    absl::Duration timeout = absl::Seconds(10);  // of a connection, from its start to its end
  };

  // UNAVAILABLE if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(Options options);

  // Closes everything; `text` is not called afterwards.
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // With the port in force.
  const HostPort& address() const;

 private:
  class Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gguf_offload

#endif  // COMMON_METRICS_METRICS_SERVER_H_
