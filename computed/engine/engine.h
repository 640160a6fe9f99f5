// What runs a model: a backend, the weights that it reads and the memory for both, sized together.
//
// There is one for each kind of processor. Whoever creates one needs to know no more of the
// difference.
#ifndef COMPUTED_ENGINE_ENGINE_H_
#define COMPUTED_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/model/architecture.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/placement.h"
#include "computed/prefetch/weight_loader.h"
#include "computed/runtime/backend.h"
#include "computed/runtime/trace.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// How activations enter matrix products.
enum class ActivationPrecision {
  kInt8,     // 8 bits in groups of 32: fast
  kFloat16,  // CUDA only
  kFloat32,  // CPU only
};

// How bytes that are not on the GPU get there; kAuto: the fastest that works.
enum class Transport {
  kAuto,
  kRegistered,  // DMA straight from the mapped files
  kStaged,      // copied to a ring of pinned memory first
  kDirectIo,    // read from the disk into the ring, past the page cache
};

// Zero means a default that the engine chooses.
struct EngineOptions {
  ActivationPrecision activations = ActivationPrecision::kInt8;
  int threads = 1;         // of the CPU backend
  int context_tokens = 0;  // longest sequence
  int kv_tokens = 0;       // tokens that the KV cache holds for all sequences
  int step_tokens = 0;     // most rows of a step
  int max_sequences = 32;  // most sequences in a step
  // CPU: bytes for weights that are streamed; 0: 70 % of what is available.
  uint64_t host_memory = 0;
  // CUDA: bytes of GPU memory for everything beyond the CUDA context; 0: 90 % of what is free.
  uint64_t gpu_memory = 0;
  // CUDA: at most so many bytes of matrices stay on the GPU.
  uint64_t resident_weights = UINT64_MAX;
  // CUDA: at most so many bytes for the cache of experts of a model that does not fit.
  uint64_t expert_cache = UINT64_MAX;
  // For models with experts whose weights come over the network: at most so many bytes of the
  // host's memory hold single experts, those used last; 0: none, experts come as whole layers. By
  // default on the CPU what host_memory leaves, on a GPU a quarter of what is available.
  uint64_t host_cache = UINT64_MAX;
  // CUDA: at most so many bytes of experts are fetched into that cache before a layer's router has
  // asked for them, a layer and step; 0: none are.
  uint64_t predict_experts = 0;
  Transport transport = Transport::kAuto;
};

// What the engine made of the options.
struct EngineSizes {
  int context_tokens = 0;
  int kv_pages = 0;
  int step_tokens = 0;
  int max_sequences = 0;
  int evaluate_rows = 0;  // most rows of a step whose logits go to Evaluate

  int max_logit_rows() const { return max_sequences + evaluate_rows; }
};

struct MemoryItem {
  std::string purpose;
  uint64_t bytes = 0;
};

// What went over the link to the GPU, and what waited for what, since the start.
struct LinkCounters {
  std::string transport;
  uint64_t bytes = 0;
  uint64_t ring_stalls = 0;  // times that operations waited for a copy
  double copy_busy_seconds = 0;
  double copy_idle_seconds = 0;  // between copies, within steps
  double compute_busy_seconds = 0;
  double compute_idle_seconds = 0;  // between stretches of a step
};

// What has happened to the experts of a layer since the start.
struct ExpertCounters {
  int layer = 0;
  int slots = 0;  // of the cache; 0: all experts are resident or streamed
  uint64_t slot_bytes = 0;
  uint64_t hits = 0;         // experts that a step found in the cache
  uint64_t misses = 0;       // experts that it had to fetch
  uint64_t bytes = 0;        // that it fetched
  uint64_t early = 0;        // experts that were fetched because they were predicted
  uint64_t early_used = 0;   // of these, those that the step then wanted; they are hits, too
  uint64_t early_bytes = 0;  // fetched for them, not in `bytes`
  // Of the cache in the host's memory: experts that were wanted and found there, those that had to
  // come over the network, and bytes of these.
  uint64_t host_hits = 0;
  uint64_t host_misses = 0;
  uint64_t host_bytes = 0;
  std::vector<uint32_t> uses;  // (experts) tokens that went there; wraps around
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual Backend& backend() = 0;
  virtual WeightLoader& loader() = 0;
  virtual const Placement& placement() const = 0;
  virtual const EngineSizes& sizes() const = 0;

  // Memory by purpose, of the processor that computes; and the most that it may be in all.
  virtual std::vector<MemoryItem> Memory() const = 0;
  virtual uint64_t memory_budget() const = 0;
  // What is used instead of something better, and why; a line each.
  virtual std::vector<std::string> Fallbacks() const { return {}; }
  // None without a link.
  virtual std::optional<LinkCounters> link_counters() const { return std::nullopt; }
  // One entry a layer with experts, in their order; none where nothing is counted. Does not wait
  // for steps.
  virtual absl::StatusOr<std::vector<ExpertCounters>> expert_counters() {
    return std::vector<ExpertCounters>();
  }
  // GPU memory taken since the context was made, by the driver's count.
  virtual uint64_t device_bytes() const { return 0; }

  // Called when the forward pass has been created, before the first step: checks the budget.
  virtual absl::Status Finish() { return absl::OkStatus(); }
};

// The arguments must outlive the engine; `trace` may be null.
absl::StatusOr<std::unique_ptr<Engine>> CreateCpuEngine(WeightSource& source,
                                                        const Architecture& architecture,
                                                        const ModelTensors& tensors,
                                                        const EngineOptions& options);
// FAILED_PRECONDITION where this program has no CUDA backend or the machine no GPU;
// RESOURCE_EXHAUSTED, with a table of what is needed, if the budget is too small.
absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(WeightSource& source,
                                                         const Architecture& architecture,
                                                         const ModelTensors& tensors,
                                                         const EngineOptions& options,
                                                         Trace* trace);

// Whether CreateCudaEngine can work here.
bool CudaAvailable();
// Whether this program was built with the CUDA backend.
bool BuiltWithCuda();

// The longest sequence: what is asked for, or the model's own limit up to 4096.
int ChooseContext(const TransformerShape& shape, int asked);
KvShape KvShapeOf(const TransformerShape& shape);

}  // namespace gguf_offload

#endif  // COMPUTED_ENGINE_ENGINE_H_
