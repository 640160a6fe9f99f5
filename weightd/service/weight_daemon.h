// The whole weight daemon but its command line: store, services, server and Unix socket.
#ifndef WEIGHTD_SERVICE_WEIGHT_DAEMON_H_
#define WEIGHTD_SERVICE_WEIGHT_DAEMON_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/daemon/daemon.h"
#include "common/daemon/host_port.h"
#include "common/metrics/daemon_metrics.h"
#include "weightd/metrics/weight_metrics.h"
#include "weightd/service/diagnostics_service.h"
#include "weightd/service/model_rescan.h"
#include "weightd/service/service_core.h"
#include "weightd/service/weight_service.h"
#include "weightd/shm/local_socket.h"
#include "weightd/store/model_store.h"

namespace gguf_offload {

// Owns everything. Start and Stop are for one thread; the rest is thread safe.
class WeightDaemon {
 public:
  struct Options {
    HostPort listen = {"127.0.0.1", 0};
    // Path of the Unix socket; empty for none.
    std::string socket_path;
    // Users that may connect to it besides the daemon's own.
    std::vector<uint32_t> allowed_uids;
    // Names and paths of models to load.
    std::vector<std::pair<std::string, std::string>> models;
    // A folder all models of which are loaded; empty for none.
    std::string model_dir;
    // Folders that LoadModel may load from, besides model_dir and those of `models`.
    std::vector<std::string> load_folders;
    store::Residency residency = store::Residency::kLazy;
    absl::Duration grace = absl::Seconds(30);
    absl::Duration stream_timeout = absl::Seconds(60);
    // What GetConfig shows.
    std::map<std::string, std::string> flags;
    // TLS of `listen`; null for none. The Unix socket has none.
    std::shared_ptr<grpc::ServerCredentials> credentials;
    // The operators' port.
    std::optional<HostPort> admin;
    // Where metrics are served, from before the models are loaded on.
    std::optional<HostPort> metrics;
    // Calls that one client may have running; 0 for any number.
    int calls_per_client = 0;
    // How often to look whether files have changed, and to load those that have; 0 for never.
    absl::Duration rescan_interval;
  };

  // Loads the models and starts to serve, not yet healthy. Models that cannot be loaded are logged
  // and listed as failed. Errors: a folder or an address that cannot be used.
  static absl::StatusOr<std::unique_ptr<WeightDaemon>> Start(Options options);

  // Stops at once if it still runs.
  ~WeightDaemon();

  // Announce, ServeUntilSignal, Stop, address.
  Daemon& daemon() { return *daemon_; }
  store::ModelStore& store() { return *store_; }

 private:
  explicit WeightDaemon(Options options);
  absl::Status ServeMetrics();
  absl::Status LoadModels();
  absl::Status Listen();

  const Options options_;
  CallGate gate_;
  DaemonMetrics metrics_;
  const std::shared_ptr<WeightMetrics> weight_metrics_;
  std::unique_ptr<store::ModelStore> store_;
  std::unique_ptr<ModelRescan> rescan_;
  std::unique_ptr<ServiceCore> core_;
  std::unique_ptr<WeightService> weight_service_;
  std::unique_ptr<DiagnosticsService> diagnostics_service_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<shm::LocalSocket> socket_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_WEIGHT_DAEMON_H_
