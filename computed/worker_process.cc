#include "computed/worker_process.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "kernels/attention/kv_cache.h"
#include "kernels/quant/simd_target_name.h"

namespace gguf_offload {
namespace {

constexpr int kDefaultContext = 4096;

// What the system could give without swapping (proc(5), MemAvailable); 0 if it does not say.
uint64_t AvailableMemory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    if (absl::StartsWith(line, "MemAvailable:")) {
      return std::strtoull(line.c_str() + sizeof("MemAvailable:"), nullptr, 10) << 10;
    }
  }
  return 0;
}

std::string WorkerName() {
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat("computed@", host, ":", getpid());
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Create(WorkerOptions options,
                                                                     CallGate* gate) {
  std::unique_ptr<WorkerProcess> worker(new WorkerProcess(std::move(options)));
  if (absl::Status status = worker->LoadModel(); !status.ok()) return status;
  if (absl::Status status = worker->StartSession(); !status.ok()) return status;
  worker->view_.gate = gate;
  return worker;
}

absl::Status WorkerProcess::LoadModel() {
  absl::StatusOr<std::unique_ptr<WeightSource>> source =
      WeightSource::Attach({.address = options_.weights,
                            .model = options_.model,
                            .worker = WorkerName(),
                            .attach_timeout = options_.attach_timeout,
                            .log = [](std::string_view line) { Log(LogLevel::kInfo, line); }});
  if (!source.ok()) return source.status();
  source_ = *std::move(source);
  const v1::Manifest& manifest = source_->manifest();

  absl::StatusOr<std::unique_ptr<Architecture>> architecture = CreateArchitecture(manifest);
  if (!architecture.ok()) return architecture.status();
  architecture_ = *std::move(architecture);
  absl::StatusOr<ModelTensors> tensors = ResolveTensors(*architecture_, manifest);
  if (!tensors.ok()) return tensors.status();
  tensors_ = *std::move(tensors);

  const bool shared = manifest.shards_size() > 0 && source_->MappedShard(0) != nullptr;
  view_.memory_budget =
      options_.host_memory != 0 ? options_.host_memory : AvailableMemory() / 10 * 7;
  absl::StatusOr<Placement> placement =
      PlanPlacement(tensors_, {.shared_pages = shared, .memory_budget = view_.memory_budget});
  if (!placement.ok()) return placement.status();
  placement_ = *std::move(placement);
  absl::StatusOr<std::unique_ptr<WeightLoader>> loader =
      WeightLoader::Create(*source_, tensors_, placement_);
  if (!loader.ok()) return loader.status();
  loader_ = *std::move(loader);

  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(manifest);
  if (tokenizer.ok()) {
    tokenizer_ = *std::move(tokenizer);
  } else {
    // The model runs all the same, on token ids.
    view_.tokenizer_error = absl::UnimplementedError(
        absl::StrCat("no text, only token ids: ", tokenizer.status().message()));
    Log(LogLevel::kWarning, "the vocabulary cannot be used", {{"why", tokenizer.status()}});
  }
  Log(LogLevel::kInfo, "attached",
      {{"model", manifest.name()},
       {"generation", manifest.generation()},
       {"architecture", manifest.architecture()},
       {"shared_bytes", placement_.shared_bytes},
       {"resident_bytes", placement_.resident_bytes},
       {"streamed_bytes", placement_.streamed_bytes}});
  return absl::OkStatus();
}

absl::Status WorkerProcess::StartSession() {
  const TransformerShape& shape = architecture_->shape();
  const int model_context = static_cast<int>(std::min<int64_t>(shape.context, 1 << 24));
  InferenceSessionOptions session{.vocabulary = shape.vocabulary,
                                  .step_tokens = options_.step_tokens,
                                  .max_sequences = options_.max_sequences,
                                  .max_waiting = options_.max_waiting};
  session.context_tokens = options_.context_tokens != 0 ? options_.context_tokens
                                                        : std::min(model_context, kDefaultContext);
  if (session.context_tokens > model_context) {
    Log(LogLevel::kWarning, "the context is longer than the model was made for",
        {{"context_tokens", session.context_tokens}, {"model", model_context}});
  }
  const int64_t kv_tokens =
      options_.kv_tokens != 0 ? options_.kv_tokens : int64_t{4} * session.context_tokens;
  session.kv_pages = static_cast<int>((kv_tokens + kPageTokens - 1) / kPageTokens);

  backend_ = std::make_unique<CpuBackend>(options_.threads, options_.activations);
  absl::Status status = backend_->AllocateKvCache({.layers = shape.layers,
                                                   .kv_heads = shape.kv_heads,
                                                   .key_dim = shape.key_dim,
                                                   .value_dim = shape.value_dim},
                                                  session.kv_pages);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<ForwardPass>> forward =
      ForwardPass::Create(*architecture_, *backend_, *loader_, options_.step_tokens,
                          absl::Now() + absl::Minutes(10), &trace_);
  if (!forward.ok()) return forward.status();
  forward_ = *std::move(forward);
  session_ = std::make_unique<InferenceSession>(
      session, *forward_, tokenizer_.get(), [this] { return source_->CheckIntact(); }, &trace_);

  view_.source = source_.get();
  view_.architecture = architecture_.get();
  view_.tensors = &tensors_;
  view_.placement = &placement_;
  view_.loader = loader_.get();
  view_.backend = backend_.get();
  view_.session = session_.get();
  view_.trace = &trace_;
  view_.tokenizer = tokenizer_.get();
  view_.context_tokens = session.context_tokens;
  view_.activations = options_.activations == ActivationType::kInt8 ? "int8" : "float32";
  view_.flags = options_.flags;
  view_.simd_target = SimdTargetName();
  return absl::OkStatus();
}

}  // namespace gguf_offload
