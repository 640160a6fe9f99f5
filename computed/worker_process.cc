#include "computed/worker_process.h"

#include <unistd.h>

#include <future>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "kernels/quant/simd_target_name.h"
#include "weightd/client/verify_weights.h"

namespace gguf_offload {
namespace {

// How long the weights may take to be hashed after logits that were not numbers.
constexpr absl::Duration kVerifyPatience = absl::Seconds(30);

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

WeightSource::Options WorkerProcess::WeightsOptions() const {
  return {.address = options_.weights,
          .model = options_.model,
          .worker = WorkerName(),
          .credentials = options_.credentials,
          .server_name = options_.server_name,
          .attach_timeout = options_.attach_timeout,
          .log = [](std::string_view line) { Log(LogLevel::kInfo, line); },
          .counters = options_.source_counters};
}

absl::Status WorkerProcess::LoadModel() {
  absl::StatusOr<std::unique_ptr<WeightSource>> source = WeightSource::Attach(WeightsOptions());
  if (!source.ok()) return source.status();
  source_ = *std::move(source);
  const v1::Manifest& manifest = source_->manifest();

  absl::StatusOr<std::unique_ptr<Architecture>> architecture = CreateArchitecture(manifest);
  if (!architecture.ok()) return architecture.status();
  architecture_ = *std::move(architecture);
  absl::StatusOr<ModelTensors> tensors = ResolveTensors(*architecture_, manifest);
  if (!tensors.ok()) return tensors.status();
  tensors_ = *std::move(tensors);
  for (const std::string& unused : tensors_.unused) {
    Log(LogLevel::kInfo, "tensors are not used", {{"which", unused}});
  }

  // Both take a good part of a second.
  std::future<absl::StatusOr<std::unique_ptr<Tokenizer>>> vocabulary =
      std::async(std::launch::async, [&manifest] { return Tokenizer::Create(manifest); });
  absl::StatusOr<std::unique_ptr<Engine>> engine = CreateEngine();
  if (!engine.ok()) return engine.status();
  engine_ = *std::move(engine);

  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = vocabulary.get();
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
       {"backend", std::string(engine_->backend().name())},
       {"shared_bytes", engine_->placement().shared_bytes},
       {"resident_bytes", engine_->placement().resident_bytes},
       {"streamed_bytes", engine_->placement().streamed_bytes},
       {"cached_bytes", engine_->placement().cached_bytes}});
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Engine>> WorkerProcess::CreateEngine() {
  if (options_.cuda) {
    absl::StatusOr<std::unique_ptr<Engine>> engine =
        CreateCudaEngine(*source_, *architecture_, tensors_, options_.engine, &trace_);
    if (!absl::IsUnimplemented(engine.status()) || !options_.cpu_instead) return engine;
    Log(LogLevel::kWarning, "the model runs on the CPU", {{"why", engine.status()}});
  }
  return CreateCpuEngine(*source_, *architecture_, tensors_, options_.engine);
}

absl::Status WorkerProcess::StartSession() {
  const TransformerShape& shape = architecture_->shape();
  const EngineSizes& sizes = engine_->sizes();
  if (sizes.context_tokens > shape.context) {
    Log(LogLevel::kWarning, "the context is longer than the model was made for",
        {{"context_tokens", sizes.context_tokens}, {"model", shape.context}});
  }
  absl::StatusOr<std::unique_ptr<ForwardPass>> forward = ForwardPass::Create(
      *architecture_, engine_->backend(), engine_->loader(),
      {.max_rows = sizes.step_tokens, .max_logit_rows = sizes.max_logit_rows()}, &trace_);
  if (!forward.ok()) return forward.status();
  forward_ = *std::move(forward);
  if (absl::Status status = engine_->Finish(); !status.ok()) return status;
  session_ = std::make_unique<InferenceSession>(
      InferenceSessionOptions{
          .vocabulary = shape.vocabulary,
          .context_tokens = sizes.context_tokens,
          .kv_pages = sizes.kv_pages,
          .step_tokens = sizes.step_tokens,
          .evaluate_rows = sizes.evaluate_rows,
          .max_sequences = sizes.max_sequences,
          .max_waiting = options_.max_waiting,
          .on_requests =
              [this](std::vector<std::string> ids) { source_->SetRequestIds(std::move(ids)); },
          .verify_weights =
              [this] {
                return VerifyWeights(WeightsOptions(), absl::Now() + kVerifyPatience);
              },
          .events = options_.events},
      *forward_, tokenizer_.get(), [this] { return source_->CheckIntact(); }, &trace_);

  if (options_.events != nullptr) view_.events = options_.events;
  view_.source = source_.get();
  view_.architecture = architecture_.get();
  view_.tensors = &tensors_;
  view_.engine = engine_.get();
  view_.session = session_.get();
  view_.trace = &trace_;
  view_.tokenizer = tokenizer_.get();
  view_.context_tokens = sizes.context_tokens;
  view_.activations = options_.activations;
  view_.flags = options_.flags;
  view_.simd_target = SimdTargetName();
  return absl::OkStatus();
}

}  // namespace gguf_offload
