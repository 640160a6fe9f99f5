#include "computed/engine/cuda_host_experts.h"

#include <utility>

#include "computed/engine/available_memory.h"

namespace gguf_offload {

absl::StatusOr<CudaHostExperts> CudaHostExperts::Create(WeightSource& source,
                                                        const ModelTensors& tensors,
                                                        const RoutingRule& routing,
                                                        uint64_t host_cache) {
  const uint64_t most = host_cache == UINT64_MAX ? AvailableMemory() / 4 : host_cache;
  absl::StatusOr<HostExpertPlan> plan =
      PlanHostExperts(tensors, routing.experts, routing.used, most);
  if (!plan.ok()) return plan.status();
  absl::StatusOr<PinnedMemory> memory =
      PinnedMemory::Allocate(plan->bytes, "experts (--host-cache)");
  if (!memory.ok()) return memory.status();
  CudaHostExperts experts{.memory = *std::move(memory)};
  experts.cache = std::make_unique<HostExpertCache>(source, *std::move(plan), experts.memory.host);
  return experts;
}

}  // namespace gguf_offload
