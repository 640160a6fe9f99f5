// The engine for machines with an NVIDIA GPU: everything in one allocation whose parts are planned
// beforehand, under a budget that the driver's own count has to keep.
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/log/log.h"
#include "computed/engine/cuda_host_experts.h"
#include "computed/engine/cuda_memory_plan.h"
#include "computed/engine/engine.h"
#include "computed/prefetch/device_weight_loader.h"
#include "computed/prefetch/direct_file_reader.h"
#include "computed/prefetch/parallel_copy_reader.h"
#include "computed/prefetch/stream_reader.h"
#include "computed/runtime/cuda/cuda_backend.h"
#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/matmul/cublas_library.h"

namespace gguf_offload {
namespace {

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
  const Placement& placement() const override { return plan_.weights.summary; }
  const EngineSizes& sizes() const override { return plan_.sizes; }
  uint64_t memory_budget() const override { return budget_.bytes; }
  std::vector<MemoryItem> Memory() const override;
  std::vector<std::string> Fallbacks() const override;
  std::optional<LinkCounters> link_counters() const override;
  absl::StatusOr<std::vector<ExpertCounters>> expert_counters() override;
  uint64_t device_bytes() const override { return device_->UsedBytes(); }
  absl::Status Finish() override;

 private:
  absl::Status LoadLibraries();
  absl::Status MakePlan(bool cache_experts);
  absl::Status PrepareExperts();
  absl::Status MapExperts();
  absl::Status HoldExperts();
  absl::Status CreateExpertCache();
  absl::Status CreateTransport();
  absl::StatusOr<std::unique_ptr<DeviceTransport>> NewStagedTransport();
  bool larger_than_host_memory() const;
  void ReadClocks();
  void WatchBudget();

  WeightSource& source_;
  const TransformerShape& shape_;
  const ModelTensors& tensors_;
  const EngineOptions options_;
  Trace* const trace_;
  CudaBudget budget_;
  std::vector<std::string> notes_;  // of Fallbacks
  CudaMemoryPlan plan_;
  // Destroyed from the last to the first.
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<cuda::CublasLibrary> cublas_;
  std::unique_ptr<DeviceArena> arena_;
  DeviceWeightLoaderOptions loading_;  // until there is a loader
  CudaHostExperts host_experts_;       // if experts come over the network
  std::unique_ptr<DeviceWeightLoader> loader_;
  std::unique_ptr<ExpertCache> expert_cache_;  // of models with experts
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
  budget_.bytes = options_.gpu_memory != 0 ? options_.gpu_memory : device_->FreeBytes() / 10 * 9;
  if (absl::Status status = LoadLibraries(); !status.ok()) return status;
  if (absl::Status status = CreateTransport(); !status.ok()) return status;
  if (absl::Status status = PrepareExperts(); !status.ok()) return status;

  if (!plan_.no_prediction.empty()) {
    notes_.push_back(absl::StrCat("experts are not predicted because ", plan_.no_prediction));
    Log(LogLevel::kWarning, notes_.back());
  }

  absl::StatusOr<std::unique_ptr<DeviceArena>> arena = DeviceArena::Create(plan_.arena_bytes);
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  absl::StatusOr<std::unique_ptr<DeviceWeightLoader>> loader = DeviceWeightLoader::Create(
      *device_, source_, tensors_, plan_.weights, *arena_, std::move(loading_));
  if (!loader.ok()) return loader.status();
  loader_ = *std::move(loader);
  if (absl::Status status = CreateExpertCache(); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<CudaBackend>> backend =
      CudaBackend::Create(*device_, plan_.backend, *arena_);
  if (!backend.ok()) return backend.status();
  backend_ = *std::move(backend);
  backend_->set_expert_cache(expert_cache_.get());
  backend_->set_idle_work([this] {
    ReadClocks();
    WatchBudget();
  });
  // What was put on the default stream, with which the others are not ordered, is done from here
  // on.
  return CudaStatus(cudaStreamSynchronize(nullptr), "preparing the GPU");
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
    budget_.library_bytes = device_->UsedBytes();
    cublas_->destroy(handle);
  }
  budget_.library_bytes = std::max(budget_.library_bytes, device_->UsedBytes());
  return absl::OkStatus();
}

bool CudaEngine::larger_than_host_memory() const {
  uint64_t bytes = 0;
  for (const v1::ShardInfo& shard : source_.manifest().shards()) bytes += shard.bytes();
  const uint64_t memory = uint64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return bytes > memory / 10 * 9;
}

absl::StatusOr<std::unique_ptr<DeviceTransport>> CudaEngine::NewStagedTransport() {
  std::unique_ptr<HostReader> reader;
  if (source_.MappedShard(0) == nullptr) {
    reader = NewStreamReader(source_);
  } else if (options_.transport == Transport::kDirectIo ||
             (options_.transport == Transport::kAuto && larger_than_host_memory())) {
    absl::StatusOr<std::unique_ptr<HostReader>> direct = NewDirectFileReader(source_);
    if (!direct.ok() && options_.transport == Transport::kDirectIo) return direct.status();
    if (direct.ok()) {
      reader = *std::move(direct);
      if (std::string note = reader->note(); !note.empty()) notes_.push_back(std::move(note));
    }
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

absl::Status CudaEngine::CreateTransport() {
  DeviceWeightLoaderOptions& options = loading_;
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
        options.fallback = [this](const absl::Status& why) {
          Log(LogLevel::kWarning, "weights are copied through pinned memory", {{"why", why}});
          return NewStagedTransport();
        };
      }
    } else if (options_.transport == Transport::kRegistered) {
      return registered.status();
    } else {
      notes_.push_back(absl::StrCat("weights are copied through pinned memory because of: ",
                                    registered.status().message()));
    }
  }
  if (options.transport == nullptr) {
    absl::StatusOr<std::unique_ptr<DeviceTransport>> staged = NewStagedTransport();
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
  return absl::OkStatus();
}

absl::Status CudaEngine::MakePlan(bool cache_experts) {
  absl::StatusOr<CudaMemoryPlan> plan =
      PlanCudaMemory(*device_, shape_, tensors_, options_, budget_, cublas_.get(),
                     /*shared_embedding=*/source_.MappedShard(0) != nullptr, cache_experts);
  if (!plan.ok()) return plan.status();
  plan_ = *std::move(plan);
  return absl::OkStatus();
}

// Makes the plan, in which experts are cached if the GPU can read them in the host's memory.
absl::Status CudaEngine::PrepareExperts() {
  const bool mapped = source_.MappedShard(0) != nullptr;
  const bool possible = mapped ? loading_.registered != nullptr : options_.host_cache > 0;
  if (absl::Status status = MakePlan(possible); !status.ok()) return status;
  if (plan_.weights.expert_cache.empty()) return absl::OkStatus();
  absl::Status status = mapped ? MapExperts() : HoldExperts();
  if (status.ok()) return status;
  if (!mapped && options_.host_cache != UINT64_MAX) return status;  // it was asked for
  notes_.push_back(absl::StrCat("experts are not cached because of: ", status.message()));
  Log(LogLevel::kWarning, notes_.back());
  return MakePlan(/*cache_experts=*/false);
}

absl::Status CudaEngine::HoldExperts() {
  absl::StatusOr<CudaHostExperts> experts =
      CudaHostExperts::Create(source_, tensors_, shape_.experts.routing, options_.host_cache);
  if (!experts.ok()) return experts.status();
  host_experts_ = *std::move(experts);
  loading_.host_experts = host_experts_.cache.get();
  return absl::OkStatus();
}

absl::Status CudaEngine::CreateExpertCache() {
  if (!shape_.has_experts()) return absl::OkStatus();
  std::unique_ptr<HostExpertFetch> fetch;
  if (host_experts_.cache != nullptr) {
    absl::StatusOr<std::unique_ptr<HostExpertFetch>> created =
        HostExpertFetch::Create(*host_experts_.cache, host_experts_.memory);
    if (!created.ok()) return created.status();
    fetch = *std::move(created);
  }
  absl::StatusOr<std::unique_ptr<ExpertCache>> cache =
      ExpertCache::Create(plan_.weights.expert_cache, shape_.layers, shape_.experts.routing.experts,
                          std::move(fetch), *arena_);
  if (!cache.ok()) return cache.status();
  expert_cache_ = *std::move(cache);
  return absl::OkStatus();
}

// Registers the files' pages with experts, where that is refused before the plan relies on it.
absl::Status CudaEngine::MapExperts() {
  for (const ExpertCachePlan::Layer& layer : plan_.weights.expert_cache.layers) {
    for (const ModelTensor& tensor : tensors_.groups[tensors_.layer_group(layer.layer)]) {
      if (ExpertMatrixOf(tensor) < 0) continue;
      absl::StatusOr<const uint8_t*> address =
          loading_.registered->DeviceAddress(tensor.shard, tensor.offset, tensor.bytes);
      if (!address.ok()) return address.status();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ExpertCounters>> CudaEngine::expert_counters() {
  std::vector<ExpertCounters> counters;
  if (expert_cache_ == nullptr) return counters;
  absl::StatusOr<std::vector<ExpertActivity>> layers = expert_cache_->Read();
  if (!layers.ok()) return layers.status();
  std::vector<HostExpertCache::Counters> host(layers->size());
  if (host_experts_.cache != nullptr) host = host_experts_.cache->counters();
  for (ExpertActivity& layer : *layers) {
    if (layer.layer < shape_.experts.dense_layers) continue;
    counters.push_back({.layer = layer.layer,
                        .slots = layer.slots,
                        .slot_bytes = layer.slot_bytes,
                        .hits = layer.hits,
                        .misses = layer.misses,
                        .bytes = layer.bytes,
                        .early = layer.early,
                        .early_used = layer.early_used,
                        .early_bytes = layer.early_bytes,
                        .host_hits = host[layer.layer].hits,
                        .host_misses = host[layer.layer].misses,
                        .host_bytes = host[layer.layer].bytes,
                        .uses = std::move(layer.uses)});
  }
  return counters;
}

// Code that is loaded when it first runs, and recorded graphs, may take more than was set aside.
void CudaEngine::WatchBudget() {
  const absl::Time now = absl::Now();
  if (over_budget_ || now - budget_checked_ < absl::Seconds(1)) return;
  budget_checked_ = now;
  const uint64_t used = device_->UsedBytes();
  over_budget_ = used > budget_.bytes;
  if (over_budget_) {
    Log(LogLevel::kError, "the driver counts more GPU memory than the budget",
        {{"driver_bytes", used}, {"budget_bytes", budget_.bytes}});
  }
}

absl::Status CudaEngine::Finish() {
  const uint64_t used = device_->UsedBytes();
  uint64_t planned = 0;
  for (const MemoryItem& item : plan_.items) planned += item.bytes;
  Log(used > budget_.bytes ? LogLevel::kError : LogLevel::kInfo, "GPU memory",
      {{"gpu", device_->name()},
       {"budget_bytes", budget_.bytes},
       {"planned_bytes", planned},
       {"driver_bytes", used}});
  if (used > budget_.bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the driver counts ", used >> 20,
                                                     " MiB of GPU memory, the budget is ",
                                                     budget_.bytes >> 20, " MiB"));
  }
  return absl::OkStatus();
}

std::vector<MemoryItem> CudaEngine::Memory() const {
  std::vector<MemoryItem> items = plan_.items;
  items.push_back({"pinned host memory", loader_->memory_bytes()});
  if (host_experts_.cache != nullptr) {
    items.push_back({"host cache of experts", host_experts_.cache->plan().bytes});
  }
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
  if (!plan_.weights.expert_cache.empty()) {
    // What kernels fetch crosses the link, too.
    absl::StatusOr<std::vector<ExpertActivity>> layers = expert_cache_->Read();
    if (layers.ok()) {
      for (const ExpertActivity& layer : *layers) counters.bytes += layer.bytes + layer.early_bytes;
    }
  }
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
