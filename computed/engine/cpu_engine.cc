// The engine for machines without a GPU.
#include <memory>
#include <string>
#include <utility>

#include "computed/engine/available_memory.h"
#include "computed/engine/engine.h"
#include "computed/prefetch/host_expert_cache.h"
#include "computed/prefetch/host_weight_loader.h"
#include "computed/runtime/cpu_backend.h"
#include "kernels/attention/kv_cache.h"

namespace gguf_offload {
namespace {

class CpuEngine : public Engine {
 public:
  CpuEngine(const EngineOptions& options, const TransformerShape& shape)
      : host_cache_(options.host_cache),
        memory_budget_(options.host_memory != 0 ? options.host_memory : AvailableMemory() / 10 * 7),
        backend_(options.threads, options.activations == ActivationPrecision::kInt8
                                      ? ActivationType::kInt8
                                      : ActivationType::kFloat32) {
    sizes_.context_tokens = ChooseContext(shape, options.context_tokens);
    const int64_t kv_tokens =
        options.kv_tokens != 0 ? options.kv_tokens : int64_t{4} * sizes_.context_tokens;
    sizes_.kv_pages = static_cast<int>((kv_tokens + kPageTokens - 1) / kPageTokens);
    sizes_.step_tokens = options.step_tokens != 0 ? options.step_tokens : 256;
    sizes_.max_sequences = options.max_sequences;
    sizes_.evaluate_rows = 64;
  }

  absl::Status Load(WeightSource& source, const TransformerShape& shape,
                    const ModelTensors& tensors) {
    const bool shared = source.manifest().shards_size() > 0 && source.MappedShard(0) != nullptr;
    absl::StatusOr<Placement> placement =
        PlanPlacement(tensors, {.shared_pages = shared,
                                .memory_budget = memory_budget_,
                                .experts = shape.experts.routing.experts,
                                .experts_used = shape.experts.routing.used,
                                .host_cache = host_cache_});
    if (!placement.ok()) return placement.status();
    placement_ = *std::move(placement);
    if (!placement_.host_experts.empty()) {
      if (absl::Status status = CreateExpertCache(source); !status.ok()) return status;
    }
    absl::StatusOr<std::unique_ptr<WeightLoader>> loader =
        HostWeightLoader::Create(source, tensors, placement_, expert_cache_.get());
    if (!loader.ok()) return loader.status();
    loader_ = *std::move(loader);
    return backend_.AllocateKvCache(KvShapeOf(shape), sizes_.kv_pages);
  }

  Backend& backend() override { return backend_; }
  WeightLoader& loader() override { return *loader_; }
  const Placement& placement() const override { return placement_; }
  const EngineSizes& sizes() const override { return sizes_; }
  uint64_t memory_budget() const override { return memory_budget_; }
  std::vector<MemoryItem> Memory() const override {
    std::vector<MemoryItem> items = {{"kv cache", backend_.kv_cache_bytes()},
                                     {"activations", backend_.activation_bytes()},
                                     {"weights held by the worker", loader_->memory_bytes()}};
    if (expert_cache_ != nullptr) {
      items.push_back({"host cache of experts", expert_cache_->plan().bytes});
    }
    return items;
  }
  absl::StatusOr<std::vector<ExpertCounters>> expert_counters() override {
    std::vector<ExpertCounters> counters;
    if (expert_cache_ == nullptr) return counters;
    const std::vector<HostExpertCache::Counters> layers = expert_cache_->counters();
    for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer) {
      if (expert_cache_->plan().EntriesOf(layer) == 0) continue;
      counters.push_back({.layer = layer,
                          .host_hits = layers[layer].hits,
                          .host_misses = layers[layer].misses,
                          .host_bytes = layers[layer].bytes,
                          .uses = backend_.ExpertUses(layer)});
    }
    return counters;
  }

 private:
  absl::Status CreateExpertCache(WeightSource& source) {
    absl::StatusOr<HostBuffer> buffer = HostBuffer::Allocate(placement_.host_experts.bytes);
    if (!buffer.ok()) return buffer.status();
    const auto memory = std::make_shared<HostBuffer>(*std::move(buffer));
    expert_cache_ = std::make_unique<HostExpertCache>(
        source, placement_.host_experts, std::shared_ptr<uint8_t>(memory, memory->data()));
    backend_.set_expert_cache(expert_cache_.get());
    return absl::OkStatus();
  }

  const uint64_t host_cache_;
  const uint64_t memory_budget_;
  EngineSizes sizes_;
  Placement placement_;
  std::unique_ptr<HostExpertCache> expert_cache_;  // null if experts are not cached
  CpuBackend backend_;
  std::unique_ptr<WeightLoader> loader_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateCpuEngine(WeightSource& source,
                                                        const Architecture& architecture,
                                                        const ModelTensors& tensors,
                                                        const EngineOptions& options) {
  if (options.activations == ActivationPrecision::kFloat16) {
    return absl::InvalidArgumentError(
        "activations in float16 are the CUDA backend's; the CPU has int8 and float32");
  }
  auto engine = std::make_unique<CpuEngine>(options, architecture.shape());
  absl::Status status = engine->Load(source, architecture.shape(), tensors);
  if (!status.ok()) return status;
  return engine;
}

}  // namespace gguf_offload
