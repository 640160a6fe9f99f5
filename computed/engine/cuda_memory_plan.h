// What a model takes of a GPU's memory under a budget: decided before anything is allocated.
#ifndef COMPUTED_ENGINE_CUDA_MEMORY_PLAN_H_
#define COMPUTED_ENGINE_CUDA_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/engine/engine.h"
#include "computed/placement/device_placement.h"
#include "computed/runtime/cuda/cuda_backend.h"
#include "computed/runtime/cuda/cuda_device.h"

namespace gguf_offload {

struct CudaMemoryPlan {
  EngineSizes sizes;
  CudaBackendConfig backend;
  DevicePlacement weights;
  std::vector<MemoryItem> items;  // everything that counts against the budget
  uint64_t arena_bytes = 0;       // what of it is allocated in one piece
  std::string no_prediction;      // why experts are not predicted although that was asked for
};

struct CudaBudget {
  uint64_t bytes = 0;          // for everything beyond the CUDA context
  uint64_t library_bytes = 0;  // taken by libraries already
};

// Sizes that were not asked for depend on the budget. `shared_embedding`: the embedding is read
// from the files' pages; `cache_experts`: so may experts be, into a cache. RESOURCE_EXHAUSTED, with
// a table of what is needed and the smallest budget that would do, if it is too small;
// UNIMPLEMENTED for heads or types of weights that the kernels do not know.
absl::StatusOr<CudaMemoryPlan> PlanCudaMemory(
    const CudaDevice& device, const TransformerShape& shape, const ModelTensors& tensors,
    const EngineOptions& options, const CudaBudget& budget, const cuda::CublasLibrary* cublas,
    bool shared_embedding, bool cache_experts);

}  // namespace gguf_offload

#endif  // COMPUTED_ENGINE_CUDA_MEMORY_PLAN_H_
