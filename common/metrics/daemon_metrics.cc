#include "common/metrics/daemon_metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <sstream>
#include <utility>

#include "common/metrics/samples.h"
#include "common/process/process.h"

namespace gguf_offload {

DaemonMetrics::DaemonMetrics(std::string_view program, const CallGate* gate)
    : program_(program), gate_(gate), rpc_(registry_) {}

DaemonMetrics::~DaemonMetrics() = default;

absl::Status DaemonMetrics::Serve(const HostPort& listen) {
  absl::StatusOr<std::unique_ptr<MetricsServer>> server =
      MetricsServer::Start({.listen = listen, .text = [this] { return Text(); }});
  if (!server.ok()) return server.status();
  server_ = *std::move(server);
  return absl::OkStatus();
}

std::optional<HostPort> DaemonMetrics::address() const {
  if (server_ == nullptr) return std::nullopt;
  return server_->address();
}

void DaemonMetrics::Add(std::weak_ptr<const prometheus::Collectable> collectable) {
  absl::MutexLock lock(&mutex_);
  collectables_.push_back(std::move(collectable));
}

std::vector<prometheus::MetricFamily> DaemonMetrics::OfDaemon() const {
  v1::GetBuildInfoResponse build;
  FillBuildInfo(program_, build);
  prometheus::MetricFamily info =
      GaugeFamily("gguf_offload_build_info", "1, labelled with what runs here.");
  AddSample(info, 1,
            {{"program", build.program()},
             {"version", build.version()},
             {"compiler", build.compiler()},
             {"grpc_version", build.grpc_version()}});
  return {info, Gauge("gguf_offload_draining",
                      "1 once the daemon has begun to stop and takes no new calls.",
                      gate_->draining() ? 1 : 0)};
}

std::string DaemonMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  const auto append = [&families](std::vector<prometheus::MetricFamily> more) {
    std::move(more.begin(), more.end(), std::back_inserter(families));
  };
  append(process_.Collect());
  append(OfDaemon());
  std::vector<std::weak_ptr<const prometheus::Collectable>> collectables;
  {
    absl::MutexLock lock(&mutex_);
    collectables = collectables_;
  }
  for (const auto& weak : collectables) {
    if (const auto collectable = weak.lock()) append(collectable->Collect());
  }
  std::sort(families.begin(), families.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return std::move(text).str();
}

}  // namespace gguf_offload
