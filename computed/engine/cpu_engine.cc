// The engine for machines without a GPU.
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "computed/engine/engine.h"
#include "computed/prefetch/host_weight_loader.h"
#include "computed/runtime/cpu_backend.h"
#include "kernels/attention/kv_cache.h"

namespace gguf_offload {
namespace {

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

class CpuEngine : public Engine {
 public:
  CpuEngine(const EngineOptions& options, const TransformerShape& shape)
      : memory_budget_(options.host_memory != 0 ? options.host_memory : AvailableMemory() / 10 * 7),
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
        PlanPlacement(tensors, {.shared_pages = shared, .memory_budget = memory_budget_});
    if (!placement.ok()) return placement.status();
    placement_ = *std::move(placement);
    absl::StatusOr<std::unique_ptr<WeightLoader>> loader =
        HostWeightLoader::Create(source, tensors, placement_);
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
    return {{"kv cache", backend_.kv_cache_bytes()},
            {"activations", backend_.activation_bytes()},
            {"weights held by the worker", loader_->memory_bytes()}};
  }

 private:
  const uint64_t memory_budget_;
  EngineSizes sizes_;
  Placement placement_;
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
