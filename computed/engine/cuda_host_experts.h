// Experts in pinned memory, for a GPU's cache of those that come over the network.
#ifndef COMPUTED_ENGINE_CUDA_HOST_EXPERTS_H_
#define COMPUTED_ENGINE_CUDA_HOST_EXPERTS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "computed/model/model_tensors.h"
#include "computed/prefetch/host_expert_cache.h"
#include "computed/runtime/cuda/pinned_memory.h"
#include "kernels/moe/routing.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

struct CudaHostExperts {
  PinnedMemory memory;
  std::unique_ptr<HostExpertCache> cache;  // in `memory`

  // At most `host_cache` bytes; UINT64_MAX: a quarter of what the host has available. `source` must
  // outlive the result. RESOURCE_EXHAUSTED if that is too small, naming the smallest that works, or
  // more than can be pinned.
  static absl::StatusOr<CudaHostExperts> Create(WeightSource& source, const ModelTensors& tensors,
                                                const RoutingRule& routing, uint64_t host_cache);
};

}  // namespace gguf_offload

#endif  // COMPUTED_ENGINE_CUDA_HOST_EXPERTS_H_
