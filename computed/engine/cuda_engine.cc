// The engine for machines with an NVIDIA GPU: everything in one allocation whose parts are planned
// beforehand, under a budget that the driver's own count has to keep.
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "computed/engine/engine.h"
#include "computed/placement/device_placement.h"
#include "computed/prefetch/device_weight_loader.h"
#include "computed/prefetch/direct_file_reader.h"
#include "computed/prefetch/parallel_copy_reader.h"
#include "computed/prefetch/stream_reader.h"
#include "computed/runtime/cuda/cuda_backend.h"
#include "computed/session/forward_pass.h"
#include "kernels/matmul/cublas_library.h"

namespace gguf_offload {
namespace {

// What the driver takes after the arena has been allocated: recorded graphs, code that is loaded
// when it first runs.
constexpr uint64_t kDriverReserve = uint64_t{32} << 20;

// A step takes at least so many tokens, unless less is asked for.
constexpr int kLeastStepTokens = 128;

uint64_t Sum(const std::vector<MemoryItem>& items) {
  uint64_t bytes = 0;
  for (const MemoryItem& item : items) bytes += item.bytes;
  return bytes;
}

std::string Table(const std::vector<MemoryItem>& items) {
  std::string table;
  for (const MemoryItem& item : items) {
    absl::StrAppendFormat(&table, "\n  %-28s %10.1f MiB", item.purpose, item.bytes / 1048576.0);
  }
  return table;
}

class CudaEngine : public Engine {
 public:
  CudaEngine(WeightSource& source, const Architecture& architecture, const ModelTensors& tensors,
             const EngineOptions& options, Trace* trace)
      : source_(source),
        shape_(architecture.shape()),
        tensors_(tensors),
        options_(options),
        trace_(trace) {}
  ~CudaEngine() override;

  absl::Status Start();

  Backend& backend() override { return *backend_; }
  WeightLoader& loader() override { return *loader_; }
  const Placement& placement() const override { return plan_.summary; }
  const EngineSizes& sizes() const override { return sizes_; }
  uint64_t memory_budget() const override { return budget_; }
  std::vector<MemoryItem> Memory() const override;
  std::vector<std::string> Fallbacks() const override;
  std::optional<LinkCounters> link_counters() const override;
  uint64_t device_bytes() const override { return device_->UsedBytes(); }
  absl::Status Finish() override;

 private:
  absl::Status LoadLibraries();
  void ChooseSizes(bool smallest);
  uint64_t RowBytes() const;
  std::vector<MemoryItem> FixedItems() const;
  CudaBackendConfig BackendConfig() const;
  absl::Status PlanWeights();
  absl::Status CreateLoader();
  absl::StatusOr<std::unique_ptr<DeviceTransport>> StagedFallback();
  bool larger_than_host_memory() const;
  void ReadClocks();
  void WatchBudget();

  WeightSource& source_;
  const TransformerShape& shape_;
  const ModelTensors& tensors_;
  const EngineOptions options_;
  Trace* const trace_;
  EngineSizes sizes_;
  int64_t max_columns_ = 0;  // of any matrix
  uint64_t weight_scratch_bytes_ = 0;
  uint64_t budget_ = 0;
  uint64_t library_bytes_ = 0;
  std::vector<std::string> notes_;
  DevicePlacement plan_;
  // Destroyed from the last to the first.
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<cuda::CublasLibrary> cublas_;
  std::unique_ptr<DeviceArena> arena_;
  std::unique_ptr<DeviceWeightLoader> loader_;
  std::unique_ptr<CudaBackend> backend_;

  // Where the lanes' times are counted from while a capture runs.
  cudaEvent_t anchor_ = nullptr;
  int64_t anchor_ns_ = 0;
  bool anchored_ = false;
  absl::Time budget_checked_;
  bool over_budget_ = false;
  mutable absl::Mutex mutex_;
  LinkCounters counters_ ABSL_GUARDED_BY(mutex_);
};

CudaEngine::~CudaEngine() {
  if (anchor_ != nullptr) cudaEventDestroy(anchor_);
}

absl::Status CudaEngine::Start() {
  absl::StatusOr<std::unique_ptr<CudaDevice>> device = CudaDevice::Open();
  if (!device.ok()) return device.status();
  device_ = *std::move(device);
  budget_ = options_.gpu_memory != 0 ? options_.gpu_memory : device_->FreeBytes() / 10 * 9;
  if (absl::Status status = LoadLibraries(); !status.ok()) return status;
  if (absl::Status status = PlanWeights(); !status.ok()) return status;

  const std::vector<MemoryItem> items = FixedItems();
  const uint64_t fixed = Sum(items) - library_bytes_ - kDriverReserve;
  absl::StatusOr<std::unique_ptr<DeviceArena>> arena =
      DeviceArena::Create(fixed + plan_.resident_memory + plan_.ring_memory);
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  if (absl::Status status = CreateLoader(); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<CudaBackend>> backend =
      CudaBackend::Create(*device_, BackendConfig(), *arena_);
  if (!backend.ok()) return backend.status();
  backend_ = *std::move(backend);
  backend_->set_idle_work([this] {
    ReadClocks();
    WatchBudget();
  });
  return absl::OkStatus();
}

absl::Status CudaEngine::LoadLibraries() {
  std::string error;
  cublas_ = cuda::CublasLibrary::Load(error);
  if (cublas_ == nullptr) {
    if (options_.activations == ActivationPrecision::kFloat16) {
      return absl::FailedPreconditionError(
          absl::StrCat("float16 activations need cuBLAS: ", error));
    }
    notes_.push_back(absl::StrCat("no cuBLAS, so prompts are processed slowly: ", error));
    Log(LogLevel::kWarning, "cuBLAS cannot be used", {{"why", error}});
  } else {
    // Loads the library's code, which counts.
    cublasHandle_t handle = nullptr;
    if (cublas_->create(&handle) != CUBLAS_STATUS_SUCCESS) {
      return absl::InternalError("cuBLAS cannot be initialized");
    }
    library_bytes_ = device_->UsedBytes();
    cublas_->destroy(handle);
  }
  library_bytes_ = std::max(library_bytes_, device_->UsedBytes());
  return absl::OkStatus();
}

uint64_t CudaEngine::RowBytes() const {
  return ForwardPass::ActivationBytes(shape_, {.max_rows = 1, .max_logit_rows = 0});
}

// Sizes that were not asked for depend on the budget, unless even the smallest hardly fit it.
void CudaEngine::ChooseSizes(bool smallest) {
  sizes_.context_tokens = ChooseContext(shape_, options_.context_tokens);
  sizes_.max_sequences = options_.max_sequences;
  sizes_.step_tokens = options_.step_tokens;
  if (sizes_.step_tokens == 0) {
    // A long prompt crosses the link once for each step's worth of it; a fifth of the budget.
    sizes_.step_tokens = smallest ? kLeastStepTokens : 2048;
    while (sizes_.step_tokens > kLeastStepTokens && sizes_.step_tokens * RowBytes() > budget_ / 5) {
      sizes_.step_tokens /= 2;
    }
    sizes_.step_tokens = std::max(sizes_.step_tokens, sizes_.max_sequences);
  }
  sizes_.evaluate_rows = std::min(16, sizes_.step_tokens);

  int64_t kv_tokens = options_.kv_tokens;
  if (kv_tokens == 0) {
    const uint64_t token_bytes =
        uint64_t{2} * shape_.layers * shape_.kv_heads * (shape_.key_dim + shape_.value_dim);
    kv_tokens = smallest ? sizes_.context_tokens
                         : std::clamp<int64_t>(budget_ / 4 / token_bytes, sizes_.context_tokens,
                                               int64_t{4} * sizes_.context_tokens);
  }
  sizes_.kv_pages = static_cast<int>((kv_tokens + cuda::kPageTokens - 1) / cuda::kPageTokens);

  // Larger parts of weights make better products, but a sixteenth of the budget is enough.
  int64_t max_columns = 0;
  uint64_t largest = 0;
  for (const auto& group : tensors_.groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.is_vector()) continue;
      max_columns = std::max(max_columns, tensor.columns);
      if (tensor.id == kTokenEmbedding) continue;
      largest = std::max<uint64_t>(largest, tensor.columns * tensor.rows * sizeof(uint16_t));
    }
  }
  const uint64_t least = cuda::HalfMatMul::LeastWeightBytes(max_columns);
  max_columns_ = max_columns;
  weight_scratch_bytes_ = smallest
                              ? least
                              : std::clamp<uint64_t>(std::min(largest, budget_ / 16), least,
                                                     std::max<uint64_t>(least, uint64_t{64} << 20));
}

CudaBackendConfig CudaEngine::BackendConfig() const {
  return CudaBackendConfig{.kv = KvShapeOf(shape_),
                           .kv_pages = sizes_.kv_pages,
                           .heads = shape_.heads,
                           .max_columns = max_columns_,
                           .max_rows = sizes_.step_tokens,
                           .max_logit_rows = sizes_.max_logit_rows(),
                           .max_sequences = sizes_.max_sequences,
                           .precision = options_.activations == ActivationPrecision::kFloat16
                                            ? cuda::Precision::kHalf
                                            : cuda::Precision::kInt8,
                           .weight_scratch_bytes = weight_scratch_bytes_,
                           .cublas = cublas_.get()};
}

// All but the weights.
std::vector<MemoryItem> CudaEngine::FixedItems() const {
  std::vector<MemoryItem> items = {{"CUDA libraries", library_bytes_},
                                   {"reserve for the driver", kDriverReserve}};
  uint64_t activations = 0;
  for (const auto& [rows, columns] : ForwardPass::ActivationShapes(
           shape_, {.max_rows = sizes_.step_tokens, .max_logit_rows = sizes_.max_logit_rows()})) {
    activations += CudaBackend::MatrixBytes(rows, columns);
  }
  items.push_back({absl::StrCat("activations of ", sizes_.step_tokens, " tokens"), activations});
  for (const auto& [purpose, bytes] : CudaBackend::Plan(*device_, BackendConfig())) {
    items.push_back({purpose, bytes});
  }
  return items;
}

absl::Status CudaEngine::PlanWeights() {
  const int64_t largest_head = std::max(shape_.key_dim, shape_.value_dim);
  if (largest_head > cuda::kMaxHeadDim) {
    return absl::UnimplementedError(absl::StrCat("the CUDA backend has attention heads of up to ",
                                                 cuda::kMaxHeadDim, " elements, the model ",
                                                 largest_head));
  }
  const uint64_t least = LeastWeightMemory(tensors_);
  ChooseSizes(/*smallest=*/false);
  if (Sum(FixedItems()) + least > budget_) ChooseSizes(/*smallest=*/true);
  std::vector<MemoryItem> items = FixedItems();
  const uint64_t fixed = Sum(items);
  if (fixed + least > budget_) {
    items.push_back({"vectors and ring of layers", least});
    return absl::ResourceExhaustedError(absl::StrCat(
        "a GPU memory budget of ", budget_ >> 20, " MiB is too small for this model with ",
        sizes_.step_tokens, " tokens a step (--step-tokens), ", sizes_.kv_pages * cuda::kPageTokens,
        " tokens in the KV cache (--kv-tokens) and ", sizes_.max_sequences,
        " sequences (--max-sequences). It takes:", Table(items),
        absl::StrFormat("\n  %-28s %10.1f MiB", "smallest budget", (fixed + least) / 1048576.0)));
  }
  absl::StatusOr<DevicePlacement> plan =
      PlanDevicePlacement(tensors_, {.weight_memory = budget_ - fixed,
                                     .max_resident = options_.resident_weights,
                                     .shared_embedding = source_.MappedShard(0) != nullptr});
  if (!plan.ok()) return plan.status();
  plan_ = *std::move(plan);
  return absl::OkStatus();
}

bool CudaEngine::larger_than_host_memory() const {
  uint64_t bytes = 0;
  for (const v1::ShardInfo& shard : source_.manifest().shards()) bytes += shard.bytes();
  const uint64_t memory = uint64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return bytes > memory / 10 * 9;
}

absl::StatusOr<std::unique_ptr<DeviceTransport>> CudaEngine::StagedFallback() {
  std::unique_ptr<HostReader> reader;
  if (source_.MappedShard(0) == nullptr) {
    reader = NewStreamReader(source_);
  } else if (options_.transport == Transport::kDirectIo ||
             (options_.transport == Transport::kAuto && larger_than_host_memory())) {
    absl::StatusOr<std::unique_ptr<HostReader>> direct = NewDirectFileReader(source_);
    if (!direct.ok() && options_.transport == Transport::kDirectIo) return direct.status();
    if (direct.ok()) reader = *std::move(direct);
  }
  if (reader == nullptr) {
    absl::StatusOr<std::unique_ptr<HostReader>> copies = NewParallelCopyReader(source_);
    if (!copies.ok()) return copies.status();
    reader = *std::move(copies);
  }
  absl::StatusOr<std::unique_ptr<StagedTransport>> staged =
      StagedTransport::Create(*device_, std::move(reader));
  if (!staged.ok()) return staged.status();
  return std::unique_ptr<DeviceTransport>(*std::move(staged));
}

absl::Status CudaEngine::CreateLoader() {
  DeviceWeightLoaderOptions options;
  const bool mapped = source_.MappedShard(0) != nullptr;
  const bool direct = options_.transport == Transport::kRegistered ||
                      (options_.transport == Transport::kAuto && !larger_than_host_memory());
  if (mapped && direct) {
    absl::StatusOr<std::unique_ptr<RegisteredTransport>> registered =
        RegisteredTransport::Create(*device_, source_);
    if (registered.ok()) {
      options.registered = registered->get();
      options.transport = *std::move(registered);
      if (options_.transport == Transport::kAuto) {
        options.fallback = [this] { return StagedFallback(); };
      }
    } else if (options_.transport == Transport::kRegistered) {
      return registered.status();
    } else {
      notes_.push_back(absl::StrCat("weights are copied through pinned memory because of: ",
                                    registered.status().message()));
    }
  }
  if (options.transport == nullptr) {
    absl::StatusOr<std::unique_ptr<DeviceTransport>> staged = StagedFallback();
    if (!staged.ok()) return staged.status();
    options.transport = *std::move(staged);
    if (!mapped) {
      notes_.push_back("weights come over the network, through pinned memory");
    } else if (notes_.empty()) {
      notes_.push_back(absl::StrCat("weights are copied through pinned memory (",
                                    options.transport->name(), ")"));
    }
  }
  for (const std::string& note : notes_) Log(LogLevel::kWarning, note);
  absl::StatusOr<std::unique_ptr<DeviceWeightLoader>> loader =
      DeviceWeightLoader::Create(*device_, source_, tensors_, plan_, *arena_, std::move(options));
  if (!loader.ok()) return loader.status();
  loader_ = *std::move(loader);
  return absl::OkStatus();
}

// Code that is loaded when it first runs, and recorded graphs, may take more than was set aside.
void CudaEngine::WatchBudget() {
  const absl::Time now = absl::Now();
  if (over_budget_ || now - budget_checked_ < absl::Seconds(1)) return;
  budget_checked_ = now;
  const uint64_t used = device_->UsedBytes();
  over_budget_ = used > budget_;
  if (over_budget_) {
    Log(LogLevel::kError, "the driver counts more GPU memory than the budget",
        {{"driver_bytes", used}, {"budget_bytes", budget_}});
  }
}

absl::Status CudaEngine::Finish() {
  const uint64_t used = device_->UsedBytes();
  Log(used > budget_ ? LogLevel::kError : LogLevel::kInfo, "GPU memory",
      {{"gpu", device_->name()},
       {"budget_bytes", budget_},
       {"planned_bytes", Sum(Memory())},
       {"driver_bytes", used}});
  if (used > budget_) {
    return absl::ResourceExhaustedError(absl::StrCat("the driver counts ", used >> 20,
                                                     " MiB of GPU memory, the budget is ",
                                                     budget_ >> 20, " MiB"));
  }
  return absl::OkStatus();
}

std::vector<MemoryItem> CudaEngine::Memory() const {
  std::vector<MemoryItem> items = FixedItems();
  items.push_back({"vectors and resident weights", plan_.resident_memory});
  items.push_back(
      {absl::StrCat("ring of ", plan_.summary.ring_slots, " slots"), plan_.ring_memory});
  return items;
}

std::vector<std::string> CudaEngine::Fallbacks() const {
  std::vector<std::string> fallbacks = notes_;
  std::string reason = loader_->fallback_reason();
  if (!reason.empty()) fallbacks.push_back(std::move(reason));
  return fallbacks;
}

std::optional<LinkCounters> CudaEngine::link_counters() const {
  absl::MutexLock lock(&mutex_);
  LinkCounters counters = counters_;
  counters.transport = loader_->transport_name();
  counters.bytes = loader_->copied_bytes();
  return counters;
}

// Called while the host waits for a step.
void CudaEngine::ReadClocks() {
  const bool recording = trace_ != nullptr && trace_->recording();
  if (recording && !anchored_) {
    if (anchor_ == nullptr) cudaEventCreate(&anchor_);
    cudaEventRecord(anchor_, device_->compute_stream());
    cudaEventSynchronize(anchor_);
    anchor_ns_ = absl::GetCurrentTimeNanos();
  }
  const cudaEvent_t anchor = recording && anchored_ ? anchor_ : nullptr;
  anchored_ = recording;
  const auto trace = [&](const char* lane, const char* name, const LaneClock::Interval& interval) {
    if (anchor == nullptr) return;
    const int64_t start = anchor_ns_ + static_cast<int64_t>(interval.start_seconds * 1e9);
    trace_->AddSpan(lane, name, interval.detail, start,
                    start + static_cast<int64_t>(interval.seconds * 1e9));
  };
  constexpr double kStall = 20e-6;  // a launch's gap is less
  absl::MutexLock lock(&mutex_);
  for (const LaneClock::Interval& interval : loader_->copy_clock().Harvest(anchor)) {
    counters_.copy_busy_seconds += interval.seconds;
    counters_.copy_idle_seconds += interval.gap_seconds;
    trace("copy", "weights", interval);
  }
  for (const LaneClock::Interval& interval : backend_->compute_clock().Harvest(anchor)) {
    counters_.compute_busy_seconds += interval.seconds;
    counters_.compute_idle_seconds += interval.gap_seconds;
    if (interval.gap_seconds > kStall) ++counters_.ring_stalls;
    trace("compute", "stretch", interval);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(WeightSource& source,
                                                         const Architecture& architecture,
                                                         const ModelTensors& tensors,
                                                         const EngineOptions& options,
                                                         Trace* trace) {
  if (options.activations == ActivationPrecision::kFloat32) {
    return absl::InvalidArgumentError(
        "activations in float32 are the CPU backend's; the GPU has int8 and float16");
  }
  if (architecture.shape().has_latent_attention()) {
    return absl::UnimplementedError(
        "models with latent attention run on the CPU only (--backend=cpu), not on the GPU");
  }
  if (architecture.shape().has_experts()) {
    return absl::UnimplementedError(
        "models with experts run on the CPU only (--backend=cpu), not on the GPU");
  }
  auto engine = std::make_unique<CudaEngine>(source, architecture, tensors, options, trace);
  if (absl::Status status = engine->Start(); !status.ok()) return status;
  return engine;
}

bool CudaAvailable() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

bool BuiltWithCuda() { return true; }

}  // namespace gguf_offload
