// Decides where each tensor lives while the model runs.
#ifndef COMPUTED_PLACEMENT_PLACEMENT_H_
#define COMPUTED_PLACEMENT_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/host_expert_plan.h"
#include "gguf_offload/v1/diagnostics.pb.h"

namespace gguf_offload {

struct PlacementOptions {
  // The weight source shares its pages with this process: nothing needs to be fetched.
  bool shared_pages = false;
  // Bytes that fetched weights may take in all, the ring included.
  uint64_t memory_budget = 0;
  // Slots of the ring that streamed layers pass through.
  int ring_slots = 3;
  // Of a model with experts: how many a layer has, and a token uses.
  int experts = 0;
  int experts_used = 0;
  // At most so many bytes of the budget for single experts; 0: none. UINT64_MAX: what the budget
  // leaves, if it does not hold the model; else, however large the budget is, experts are cached.
  uint64_t host_cache = 0;
};

struct Placement {
  // One entry for each tensor, in the order of ModelTensors.groups. A layer is streamed or resident
  // as a whole, but for its vectors, which are always resident. Where experts are cached, they
  // alone are not resident: steps of few tokens fetch single ones, those of many stream whole banks
  // through the ring.
  std::vector<std::vector<v1::Place>> places;
  std::vector<bool> streamed_groups;  // (groups)
  uint64_t slot_bytes = 0;            // size of a ring slot; 0 if nothing is streamed
  int ring_slots = 0;

  uint64_t shared_bytes = 0;
  uint64_t resident_bytes = 0;
  uint64_t streamed_bytes = 0;  // also the bytes fetched in every step
  uint64_t cached_bytes = 0;    // of experts, fetched when they are routed to

  HostExpertPlan host_experts;  // empty if experts are not cached in the host's memory
};

// RESOURCE_EXHAUSTED, with what is needed, if the budget cannot hold what has to be resident plus
// the ring, or if a cache that was asked for cannot hold the experts of one token.
absl::StatusOr<Placement> PlanPlacement(const ModelTensors& tensors,
                                        const PlacementOptions& options);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_PLACEMENT_H_
