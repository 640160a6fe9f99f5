// computed: runs a model from a weight daemon's tensors.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/byte_size/byte_size.h"
#include "common/daemon/daemon.h"
#include "common/daemon/flags.h"
#include "common/daemon/server_flags.h"
#include "common/daemon/tls.h"
#include "common/log/log.h"
#include "common/metrics/daemon_metrics.h"
#include "computed/metrics/worker_metrics.h"
#include "computed/service/diagnostics_service.h"
#include "computed/service/inference_service.h"
#include "computed/worker_process.h"
#include "gguf_offload/v1/stage.grpc.pb.h"

ABSL_FLAG(std::string, weights, "",
          "Where the weights come from: unix:PATH shares the daemon's pages, HOST:PORT streams");
ABSL_FLAG(std::string, model, "", "Name of the model at the weight daemon");
ABSL_FLAG(std::string, listen, "127.0.0.1:7071", "HOST:PORT to serve on; port 0 picks a free one");
ABSL_FLAG(std::string, backend, "auto", "auto, cpu or cuda");
ABSL_FLAG(std::string, activations, "int8",
          "Precision of activations in matrix products: int8 (fast), float32 (exact; CPU only) or "
          "float16 (CUDA only)");
ABSL_FLAG(int, threads, 0, "Threads of the CPU backend; 0: one for each core");
ABSL_FLAG(int, context_tokens, 0,
          "Longest sequence, prompt and answer; 0: the model's own limit, at most 4096");
ABSL_FLAG(int, kv_tokens, 0,
          "Tokens that the KV cache holds for all sequences; 0: 4 x context, on a GPU less if the "
          "budget is small");
ABSL_FLAG(int, step_tokens, 0,
          "Most tokens that one step processes; 0: 256 on the CPU, what fits on a GPU");
ABSL_FLAG(int, max_sequences, 32, "Most requests running at once");
ABSL_FLAG(int, max_waiting, 64, "Most requests waiting; more are turned away");
ABSL_FLAG(std::string, host_memory, "",
          "Memory for weights that are streamed, for example 6GiB; what does not fit is fetched "
          "again in every step. Default: 70 % of what is available");
ABSL_FLAG(std::string, host_cache, "",
          "At most so many bytes of single experts that came over the network stay in the host's "
          "memory, those that tokens were routed to last; 0: experts come as whole layers. "
          "Default: on the CPU what --host-memory leaves, on a GPU a quarter of what is available");
ABSL_FLAG(
    std::string, gpu_memory, "",
    "GPU memory for everything beyond the CUDA context, for example 900MiB or 6GiB; what does "
    "not fit is streamed in every step. Default: 90 % of what is free");
ABSL_FLAG(std::string, resident_weights, "",
          "At most so many bytes of weights stay in GPU memory; default: all that fit");
ABSL_FLAG(
    std::string, expert_cache, "",
    "At most so many bytes of experts stay in GPU memory, in a cache of those that tokens were "
    "routed to last; default: all of them, or what all else leaves");
ABSL_FLAG(std::string, predict_experts, "",
          "At most so many bytes of experts, a layer and step, are fetched into that cache before "
          "the layer's router has asked for them; default: none");
ABSL_FLAG(
    std::string, transport, "auto",
    "How weights get to the GPU: auto, registered (DMA from the mapped files), staged (through "
    "pinned memory) or direct-io (from the disk past the page cache)");
ABSL_FLAG(absl::Duration, attach_timeout, absl::Seconds(60),
          "How long to wait for the weight daemon at start");
ABSL_FLAG(std::string, tls_server_name, "",
          "What the certificate of --weights=HOST:PORT has to name, if not HOST");

namespace gguf_offload {
namespace {

int Fail(const absl::Status& status) {
  std::cerr << "computed: " << status.message() << "\n";
  return 1;
}

int CoresOfThisProcess() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

absl::StatusOr<WorkerOptions> OptionsFromFlags() {
  const auto error = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  WorkerOptions options;
  options.weights = absl::GetFlag(FLAGS_weights);
  options.model = absl::GetFlag(FLAGS_model);
  if (options.weights.empty()) return error("--weights=unix:PATH|HOST:PORT is missing");
  if (options.model.empty()) return error("--model=NAME is missing");

  const std::string backend = absl::GetFlag(FLAGS_backend);
  if (backend != "auto" && backend != "cpu" && backend != "cuda") {
    return error("--backend=", backend, " is not auto, cpu or cuda");
  }
  options.cuda = backend == "cuda" || (backend == "auto" && CudaAvailable());
  options.cpu_instead = backend == "auto";

  EngineOptions& engine = options.engine;
  options.activations = absl::GetFlag(FLAGS_activations);
  if (options.activations == "int8") {
    engine.activations = ActivationPrecision::kInt8;
  } else if (options.activations == "float16") {
    engine.activations = ActivationPrecision::kFloat16;
  } else if (options.activations == "float32") {
    engine.activations = ActivationPrecision::kFloat32;
    // The GPU has no exact mode; who asks for one gets it.
    if (backend == "auto") options.cuda = false;
  } else {
    return error("--activations=", options.activations, " is not int8, float16 or float32");
  }
  const std::string transport = absl::GetFlag(FLAGS_transport);
  if (transport == "registered") {
    engine.transport = Transport::kRegistered;
  } else if (transport == "staged") {
    engine.transport = Transport::kStaged;
  } else if (transport == "direct-io") {
    engine.transport = Transport::kDirectIo;
  } else if (transport != "auto") {
    return error("--transport=", transport, " is not auto, registered, staged or direct-io");
  }

  const auto in_range = [](int value, int min, int max) { return value >= min && value <= max; };
  engine.threads = absl::GetFlag(FLAGS_threads);
  if (!in_range(engine.threads, 0, 1024)) return error("--threads is not 0 to 1024");
  if (engine.threads == 0) engine.threads = CoresOfThisProcess();
  engine.context_tokens = absl::GetFlag(FLAGS_context_tokens);
  if (!in_range(engine.context_tokens, 0, 1 << 24))
    return error("--context-tokens is out of range");
  engine.kv_tokens = absl::GetFlag(FLAGS_kv_tokens);
  if (!in_range(engine.kv_tokens, 0, 1 << 28)) return error("--kv-tokens is out of range");
  engine.step_tokens = absl::GetFlag(FLAGS_step_tokens);
  if (!in_range(engine.step_tokens, 0, 1 << 16)) return error("--step-tokens is not 0 to 65536");
  engine.max_sequences = absl::GetFlag(FLAGS_max_sequences);
  if (!in_range(engine.max_sequences, 1, engine.step_tokens == 0 ? 256 : engine.step_tokens)) {
    return error("--max-sequences is not 1 to --step-tokens");
  }
  options.max_waiting = absl::GetFlag(FLAGS_max_waiting);
  if (!in_range(options.max_waiting, 1, 1 << 20)) return error("--max-waiting is out of range");
  const std::pair<const absl::Flag<std::string>&, uint64_t&> sizes[] = {
      {FLAGS_host_memory, engine.host_memory},
      {FLAGS_gpu_memory, engine.gpu_memory},
      {FLAGS_resident_weights, engine.resident_weights},
      {FLAGS_expert_cache, engine.expert_cache},
      {FLAGS_host_cache, engine.host_cache},
      {FLAGS_predict_experts, engine.predict_experts}};
  for (const auto& [flag, bytes] : sizes) {
    const std::string text = absl::GetFlag(flag);
    if (text.empty()) continue;
    absl::StatusOr<uint64_t> parsed = ParseByteSize(text);
    if (!parsed.ok()) {
      return error("--", absl::StrReplaceAll(flag.Name(), {{"_", "-"}}), ": ",
                   parsed.status().message());
    }
    bytes = *parsed;
  }
  options.attach_timeout = absl::GetFlag(FLAGS_attach_timeout);
  options.flags = ServerFlagValues();
  for (const char* name :
       {"weights",     "model",           "listen",     "backend",          "activations",
        "threads",     "context_tokens",  "kv_tokens",  "step_tokens",      "max_sequences",
        "max_waiting", "host_memory",     "gpu_memory", "resident_weights", "expert_cache",
        "host_cache",  "predict_experts", "transport",  "attach_timeout",   "tls_server_name"}) {
    options.flags[absl::StrReplaceAll(name, {{"_", "-"}})] =
        absl::FindCommandLineFlag(name)->CurrentValue();
  }
  return options;
}

// The same certificate serves towards clients and towards the weight daemon.
absl::Status UseTls(const ServerFlags& server, WorkerOptions& options) {
  if (!server.tls.has_value()) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
      MutualTlsChannelCredentials(*server.tls);
  if (!credentials.ok()) return credentials.status();
  options.credentials = *std::move(credentials);
  options.server_name = absl::GetFlag(FLAGS_tls_server_name);
  return absl::OkStatus();
}

// Shows what there is to show, from before the worker is attached on.
absl::Status ServeMetrics(const ServerFlags& server, const std::shared_ptr<WorkerMetrics>& worker,
                          DaemonMetrics& metrics) {
  metrics.Add(worker);
  for (const char* service :
       {v1::InferenceService::service_full_name(), v1::DiagnosticsService::service_full_name()}) {
    metrics.rpc().Announce(service);
  }
  return server.metrics.has_value() ? metrics.Serve(*server.metrics) : absl::OkStatus();
}

// Ends the process on SIGTERM or SIGINT for as long as it lives: while the worker starts there is
// nothing to finish. The signals must be blocked.
class ExitOnSignal {
 public:
  ExitOnSignal() : thread_([this] { Wait(); }) {}
  ~ExitOnSignal() {
    done_.store(true);
    thread_.join();
  }

 private:
  void Wait() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    const timespec interval{.tv_sec = 0, .tv_nsec = 20'000'000};
    while (!done_.load()) {
      if (sigtimedwait(&signals, nullptr, &interval) > 0) _exit(0);
    }
  }

  std::atomic<bool> done_{false};
  std::thread thread_;
};

int Main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "runs a model from a weight daemon's tensors.\n\n"
      "  computed --weights=unix:PATH|HOST:PORT --model=NAME [--listen=HOST:PORT]\n\n"
      "Dashes and underscores in flags' names are the same.");
  if (absl::Status status = ParseFlags(CommandLine(argc, argv)); !status.ok()) {
    return Fail(status);
  }
  absl::StatusOr<WorkerOptions> options = OptionsFromFlags();
  if (!options.ok()) return Fail(options.status());
  absl::StatusOr<ServerFlags> server = ParseServerFlags(absl::GetFlag(FLAGS_listen));
  if (!server.ok()) return Fail(server.status());
  SetLogFormat(server->log_format);
  SetLogLevel(server->log_level);
  auto credentials = ServerCredentialsFor(*server);
  if (!credentials.ok()) return Fail(credentials.status());
  if (absl::Status status = UseTls(*server, *options); !status.ok()) return Fail(status);

  BlockTerminationSignals();
  CallGate gate(server->calls_per_client);
  DaemonMetrics metrics("computed", &gate);
  const auto worker_metrics = std::make_shared<WorkerMetrics>(metrics.registry());
  if (absl::Status status = ServeMetrics(*server, worker_metrics, metrics); !status.ok()) {
    return Fail(status);
  }
  options->events = worker_metrics.get();
  options->source_counters = &worker_metrics->source_counters();
  std::unique_ptr<WorkerProcess> worker;
  std::unique_ptr<InferenceServiceImpl> inference;
  std::unique_ptr<WorkerDiagnosticsService> diagnostics;
  // No layers of other workers' models run here yet: gRPC's default answers UNIMPLEMENTED.
  v1::StageService::CallbackService stages;
  std::unique_ptr<Daemon> daemon;
  {
    ExitOnSignal exit_on_signal;
    absl::StatusOr<std::unique_ptr<WorkerProcess>> created =
        WorkerProcess::Create(*std::move(options), &gate);
    if (!created.ok()) return Fail(created.status());
    worker = *std::move(created);
    inference = std::make_unique<InferenceServiceImpl>(worker->view());
    diagnostics = std::make_unique<WorkerDiagnosticsService>(worker->view());
    absl::StatusOr<std::unique_ptr<Daemon>> started =
        Daemon::Start({.listen = server->listen,
                       .credentials = *std::move(credentials),
                       .services = {inference.get(), diagnostics.get(), &stages},
                       .health_names = {"gguf_offload.v1.InferenceService"},
                       .gate = &gate,
                       .grace = server->grace,
                       .admin = server->admin,
                       .metrics = metrics.address(),
                       .call_metrics = [&] { return metrics.rpc().NewInterceptorFactory(); }});
    if (!started.ok()) return Fail(started.status());
    daemon = *std::move(started);
  }
  worker_metrics->Watch(&worker->view());
  daemon->Announce();
  const int code = daemon->ServeUntilSignal();
  daemon.reset();
  worker_metrics->Watch(nullptr);
  return code;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) { return gguf_offload::Main(argc, argv); }
