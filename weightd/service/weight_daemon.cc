#include "weightd/service/weight_daemon.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

// The folders that a path given on the command line vouches for: the one it names and, if it is a
// link, the one it leads to.
void AddFolders(const std::string& path, bool is_folder, std::vector<std::string>& folders) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return;
  folders.push_back(is_folder ? absolute.string() : absolute.parent_path().string());
  const std::filesystem::path target = std::filesystem::canonical(absolute, error);
  if (error) return;
  folders.push_back(is_folder ? target.string() : target.parent_path().string());
}

void Configure(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 256);
  // Requests are small; hints of many ranges are the largest.
  builder.SetMaxReceiveMessageSize(4 << 20);
  // GetModel with vocabularies.
  builder.SetMaxSendMessageSize(-1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightDaemon>> WeightDaemon::Start(Options options) {
  std::unique_ptr<WeightDaemon> daemon(new WeightDaemon(std::move(options)));
  if (absl::Status s = daemon->ServeMetrics(); !s.ok()) return s;
  if (absl::Status s = daemon->LoadModels(); !s.ok()) return s;
  const Options& o = daemon->options_;
  daemon->rescan_ =
      std::make_unique<ModelRescan>(daemon->store_.get(), o.model_dir, o.rescan_interval);
  if (absl::Status s = daemon->Listen(); !s.ok()) return s;
  return daemon;
}

WeightDaemon::WeightDaemon(Options options)
    : options_(std::move(options)),
      gate_(options_.calls_per_client),
      metrics_("weightd", &gate_),
      weight_metrics_(std::make_shared<WeightMetrics>(metrics_.registry())) {
  store::ModelStore::Options store_options;
  for (const auto& [name, path] : options_.models) {
    AddFolders(path, /*is_folder=*/false, store_options.allowed_roots);
  }
  if (!options_.model_dir.empty()) {
    AddFolders(options_.model_dir, /*is_folder=*/true, store_options.allowed_roots);
  }
  for (const std::string& folder : options_.load_folders) {
    AddFolders(folder, /*is_folder=*/true, store_options.allowed_roots);
  }
  const bool loading_allowed = !store_options.allowed_roots.empty();
  store_options.default_residency = options_.residency;
  store_options.events = weight_metrics_.get();
  store_options.log = [](std::string_view line) { Log(LogLevel::kInfo, line); };
  store_ = std::make_unique<store::ModelStore>(std::move(store_options));
  core_ =
      std::make_unique<ServiceCore>(store_.get(), &gate_,
                                    ServiceCore::Options{.socket_path = options_.socket_path,
                                                         .loading_allowed = loading_allowed,
                                                         .stream_timeout = options_.stream_timeout,
                                                         .events = weight_metrics_.get()});
  weight_service_ = std::make_unique<WeightService>(core_.get());
  diagnostics_service_ = std::make_unique<DiagnosticsService>(core_.get(), options_.flags);
}

WeightDaemon::~WeightDaemon() {
  if (socket_ != nullptr) socket_->Stop();
  daemon_.reset();
  weight_metrics_->Watch(nullptr);
}

absl::Status WeightDaemon::ServeMetrics() {
  weight_metrics_->Watch(core_.get());
  metrics_.Add(weight_metrics_);
  metrics_.rpc().Announce(v1::WeightService::service_full_name());
  metrics_.rpc().Announce(v1::DiagnosticsService::service_full_name());
  return options_.metrics.has_value() ? metrics_.Serve(*options_.metrics) : absl::OkStatus();
}

absl::Status WeightDaemon::LoadModels() {
  for (const auto& [name, path] : options_.models) {
    const auto model = store_->Load(name, path);
    if (!model.ok()) {
      Log(LogLevel::kError, "model cannot be loaded",
          {{"model", name}, {"path", path}, {"why", model.status()}});
    }
  }
  if (options_.model_dir.empty()) return absl::OkStatus();
  return store_->LoadDirectory(options_.model_dir).status();
}

absl::Status WeightDaemon::Listen() {
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Start({
      .listen = options_.listen,
      .credentials = options_.credentials,
      .services = {weight_service_.get(), diagnostics_service_.get()},
      .health_names = {v1::WeightService::service_full_name(),
                       v1::DiagnosticsService::service_full_name()},
      .gate = &gate_,
      .grace = options_.grace,
      .admin = options_.admin,
      .metrics = metrics_.address(),
      .on_hangup = [this] { rescan_->ReloadAll(); },
      .on_drain = [this] { core_->sessions.DrainAll(); },
      .on_stop =
          [this] {
            if (socket_ != nullptr) socket_->Stop();
          },
      .call_metrics = [this] { return metrics_.rpc().NewInterceptorFactory(); },
      .configure = Configure,
  });
  if (!daemon.ok()) return daemon.status();
  daemon_ = *std::move(daemon);
  if (options_.socket_path.empty()) return absl::OkStatus();

  absl::StatusOr<std::unique_ptr<shm::LocalSocket>> socket = shm::LocalSocket::Start({
      .path = options_.socket_path,
      .allowed_uids = options_.allowed_uids,
      .on_grpc =
          [this](store::UniqueFd fd) {
            grpc::AddInsecureChannelFromFd(daemon_->server(), fd.release());
          },
      .redeem = [this](const shm::Ticket& ticket) { return core_->tickets.Redeem(ticket); },
      .on_handoff = [this](shm::HandoffResult result,
                           size_t descriptors) { weight_metrics_->OnHandoff(result, descriptors); },
  });
  if (!socket.ok()) return socket.status();
  socket_ = *std::move(socket);
  return absl::OkStatus();
}

}  // namespace gguf_offload
