#include "computed/engine/cuda_memory_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/session/forward_pass.h"
#include "kernels/attention/latent_attention_cuda.h"

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

// Sizes that were not asked for: what the budget allows, or the smallest that make sense.
EngineSizes ChooseSizes(const TransformerShape& shape, const EngineOptions& options,
                        uint64_t budget, bool smallest) {
  EngineSizes sizes{.context_tokens = ChooseContext(shape, options.context_tokens),
                    .step_tokens = options.step_tokens,
                    .max_sequences = options.max_sequences};
  if (sizes.step_tokens == 0) {
    // A long prompt crosses the link once for each step's worth of it; a fifth of the budget.
    const uint64_t row_bytes =
        ForwardPass::ActivationBytes(shape, {.max_rows = 1, .max_logit_rows = 0});
    sizes.step_tokens = smallest ? kLeastStepTokens : 2048;
    while (sizes.step_tokens > kLeastStepTokens && sizes.step_tokens * row_bytes > budget / 5) {
      sizes.step_tokens /= 2;
    }
    sizes.step_tokens = std::max(sizes.step_tokens, sizes.max_sequences);
  }
  sizes.evaluate_rows = std::min(16, sizes.step_tokens);

  int64_t kv_tokens = options.kv_tokens;
  if (kv_tokens == 0) {
    const int64_t value_dim = shape.has_latent_attention() ? 0 : shape.value_dim;
    const uint64_t token_bytes =
        uint64_t{2} * shape.layers * shape.kv_heads * (shape.key_dim + value_dim);
    kv_tokens = smallest ? sizes.context_tokens
                         : std::clamp<int64_t>(budget / 4 / token_bytes, sizes.context_tokens,
                                               int64_t{4} * sizes.context_tokens);
  }
  sizes.kv_pages = static_cast<int>((kv_tokens + cuda::kPageTokens - 1) / cuda::kPageTokens);
  return sizes;
}

// What products with experts need: more rows at a time make better use of weights that have been
// expanded, but a sixteenth of the budget is enough.
cuda::ExpertFeedForwardConfig ConfigureExperts(const TransformerShape& shape,
                                               const CudaBackendConfig& backend, uint64_t budget,
                                               bool smallest) {
  if (!shape.has_experts()) return {};
  constexpr int kInt8Rows = 64;
  constexpr int kMostPairs = 65535;  // of a grid
  const int int8_rows =
      backend.precision == cuda::Precision::kInt8 ? std::min(kInt8Rows, backend.max_rows) : 0;
  cuda::ExpertFeedForwardConfig config{.experts = shape.experts.routing.experts,
                                       .used = shape.experts.routing.used,
                                       .dim = shape.embedding,
                                       .feed_forward = shape.experts.feed_forward,
                                       .int8_rows = int8_rows,
                                       .chunk_rows = std::min(kInt8Rows, backend.max_rows)};
  while (!smallest && config.chunk_rows < backend.max_rows) {
    cuda::ExpertFeedForwardConfig larger = config;
    larger.chunk_rows = std::min(2 * config.chunk_rows, backend.max_rows);
    if (larger.chunk_rows * config.used > kMostPairs) break;
    if (cuda::ExpertFeedForward::WorkspaceBytes(larger) > budget / 16) break;
    config = larger;
  }
  return config;
}

CudaBackendConfig ConfigureBackend(const TransformerShape& shape, const ModelTensors& tensors,
                                   const EngineOptions& options, const EngineSizes& sizes,
                                   uint64_t budget, bool smallest) {
  CudaBackendConfig config{.kv = KvShapeOf(shape),
                           .kv_pages = sizes.kv_pages,
                           .heads = shape.heads,
                           .max_rows = sizes.step_tokens,
                           .max_logit_rows = sizes.max_logit_rows(),
                           .max_sequences = sizes.max_sequences,
                           .precision = options.activations == ActivationPrecision::kFloat16
                                            ? cuda::Precision::kHalf
                                            : cuda::Precision::kInt8};
  uint64_t largest = 0;
  for (const auto& group : tensors.groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.is_vector()) continue;
      config.max_columns = std::max(config.max_columns, tensor.columns);
      if (tensor.matrices > 1) continue;
      if (tensor.id == kTokenEmbedding) continue;
      largest = std::max<uint64_t>(largest, tensor.columns * tensor.rows * sizeof(uint16_t));
    }
  }
  // Larger parts of weights make better products, but a sixteenth of the budget is enough.
  const uint64_t least = cuda::HalfMatMul::LeastWeightBytes(config.max_columns);
  config.weight_scratch_bytes = least;
  if (!smallest) {
    config.weight_scratch_bytes = std::clamp<uint64_t>(
        std::min(largest, budget / 16), least, std::max<uint64_t>(least, uint64_t{64} << 20));
  }
  config.experts = ConfigureExperts(shape, config, budget, smallest);
  if (shape.has_experts()) config.predict_experts = options.predict_experts;
  return config;
}

absl::Status CheckHeads(const TransformerShape& shape) {
  const bool latent = shape.has_latent_attention();
  const int64_t most_key = latent ? cuda::kMaxLatentKeyDim : cuda::kMaxHeadDim;
  const int64_t most_value = latent ? cuda::kMaxLatentValueDim : cuda::kMaxHeadDim;
  if (shape.key_dim <= most_key && shape.value_dim <= most_value) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("the CUDA backend has ", latent ? "latent " : "",
                   "attention with keys of up to ", most_key, " elements and values of up to ",
                   most_value, ", the model ", shape.key_dim, " and ", shape.value_dim));
}

// All but the weights.
std::vector<MemoryItem> FixedItems(const CudaDevice& device, const TransformerShape& shape,
                                   const CudaMemoryPlan& plan, uint64_t library_bytes) {
  const EngineSizes& sizes = plan.sizes;
  uint64_t activations = 0;
  for (const auto& [rows, columns] : ForwardPass::ActivationShapes(
           shape, {.max_rows = sizes.step_tokens, .max_logit_rows = sizes.max_logit_rows()})) {
    activations += CudaBackend::MatrixBytes(rows, columns);
  }
  std::vector<MemoryItem> items = {
      {"CUDA libraries", library_bytes},
      {"reserve for the driver", kDriverReserve},
      {absl::StrCat("activations of ", sizes.step_tokens, " tokens"), activations}};
  for (const auto& [purpose, bytes] : CudaBackend::Plan(device, plan.backend)) {
    items.push_back({purpose, bytes});
  }
  if (shape.has_experts()) {
    items.push_back(
        {"state of experts", ExpertCache::StateBytes(shape.layers, shape.experts.routing.experts)});
  }
  return items;
}

absl::Status TooSmall(std::vector<MemoryItem> items, uint64_t least_weights,
                      const EngineSizes& sizes, uint64_t budget) {
  items.push_back({"vectors and ring of layers", least_weights});
  const uint64_t needed = Sum(items);
  return absl::ResourceExhaustedError(absl::StrCat(
      "a GPU memory budget of ", budget >> 20, " MiB is too small for this model with ",
      sizes.step_tokens, " tokens a step (--step-tokens), ", sizes.kv_pages * cuda::kPageTokens,
      " tokens in the KV cache (--kv-tokens) and ", sizes.max_sequences,
      " sequences (--max-sequences). It takes:", Table(items),
      absl::StrFormat("\n  %-28s %10.1f MiB", "smallest budget", needed / 1048576.0)));
}

// Why experts cannot be predicted; empty if they can.
std::string WhyNoPrediction(const ExpertCachePlan& cache, bool from_network, uint64_t most_bytes) {
  if (cache.empty()) return "they are not cached";
  if (from_network) return "they come over the network";
  // One layer's guess would take what another layer is computing with.
  if (cache.shared) return "all layers share the same slots of their cache";
  uint64_t smallest = UINT64_MAX;
  for (const ExpertCachePlan::Layer& layer : cache.layers) {
    uint64_t bytes = 0;
    for (uint64_t matrix : layer.matrix_bytes) bytes += matrix;
    smallest = std::min(smallest, bytes);
  }
  if (most_bytes >= smallest) return "";
  return absl::StrCat("--predict-experts is less than the ", smallest, " bytes of one");
}

}  // namespace

absl::StatusOr<CudaMemoryPlan> PlanCudaMemory(
    const CudaDevice& device, const TransformerShape& shape, const ModelTensors& tensors,
    const EngineOptions& options, const CudaBudget& budget, const cuda::CublasLibrary* cublas,
    bool shared_embedding, bool cache_experts) {
  if (absl::Status status = CheckHeads(shape); !status.ok()) return status;
  for (const auto& group : tensors.groups) {
    for (const ModelTensor& tensor : group) {
      const bool looked_up = tensor.id == kTokenEmbedding && !tensors.tied_head;
      if (tensor.is_vector() || looked_up || cuda::MatMul::Supports(tensor.type)) continue;
      return absl::UnimplementedError(absl::StrCat("the CUDA backend does not multiply ",
                                                   tensor.name, ", which is of type ",
                                                   std::string(quant::FormatOf(tensor.type).name)));
    }
  }
  const uint64_t least_weights = LeastWeightMemory(tensors);
  CudaMemoryPlan plan;
  for (bool smallest : {false, true}) {
    plan.sizes = ChooseSizes(shape, options, budget.bytes, smallest);
    plan.backend = ConfigureBackend(shape, tensors, options, plan.sizes, budget.bytes, smallest);
    plan.backend.cublas = cublas;
    plan.items = FixedItems(device, shape, plan, budget.library_bytes);
    if (Sum(plan.items) + least_weights <= budget.bytes) break;
    if (smallest) return TooSmall(plan.items, least_weights, plan.sizes, budget.bytes);
  }
  const uint64_t fixed = Sum(plan.items);
  const RoutingRule& routing = shape.experts.routing;
  absl::StatusOr<DevicePlacement> weights = PlanDevicePlacement(
      tensors, {.weight_memory = budget.bytes - fixed,
                .max_resident = options.resident_weights,
                .shared_embedding = shared_embedding,
                .expert_cache = {.possible = cache_experts && shape.has_experts(),
                                 .max_bytes = options.expert_cache,
                                 .experts = routing.experts,
                                 .used = routing.used}});
  if (!weights.ok()) return weights.status();
  plan.weights = *std::move(weights);
  if (const ExpertCachePlan& cache = plan.weights.expert_cache; !cache.empty()) {
    plan.items.push_back(
        {cache.shared ? absl::StrCat("experts: ", cache.layers[0].slots, " slots for all layers")
                      : absl::StrCat("experts: ", cache.layers[0].slots, " slots a layer"),
         DeviceArena::Rounded(cache.slot_memory)});
  }
  if (options.predict_experts > 0) {
    plan.no_prediction =
        WhyNoPrediction(plan.weights.expert_cache,
                        /*from_network=*/!shared_embedding, options.predict_experts);
    if (!plan.no_prediction.empty()) plan.backend.predict_experts = 0;
  }
  plan.items.push_back({"vectors and resident weights", plan.weights.resident_memory});
  plan.items.push_back({absl::StrCat("ring of ", plan.weights.summary.ring_slots, " slots"),
                        plan.weights.ring_memory});
  plan.arena_bytes = Sum(plan.items) - budget.library_bytes - kDriverReserve;
  return plan;
}

}  // namespace gguf_offload
