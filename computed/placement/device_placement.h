// Decides what stays in a GPU's memory and what is streamed through it in every step.
//
// Vectors always stay. Then the head, if it fits, and as many layers as fit, evenly spread, so that
// the link works while resident layers compute; then single tensors of the other layers, small ones
// first. The rest crosses the link in every step, a layer at a time, through a ring of slots, the
// head in pieces no larger than a slot. The embedding stays on the host, where the GPU reads the
// few rows that a step needs.
//
// Of a model with experts that does not fit, everything else stays, and experts are cached: steps
// of few tokens fetch those that they are routed to and find the others where earlier steps have
// left them; steps of many, which need about all of them, stream whole banks through the ring.
#ifndef COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_
#define COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/placement.h"
#include "computed/placement/transfer.h"

namespace gguf_offload {

// Which experts may be cached.
struct ExpertCacheOptions {
  bool possible = false;  // the GPU reads the files' pages
  // At most so many for slots, but enough for one token; a limit keeps experts from staying as a
  // whole, too.
  uint64_t max_bytes = UINT64_MAX;
  int experts = 0;  // of a layer
  int used = 0;     // by a token
};

// The slots of the cache, empty if experts are not cached.
struct ExpertCachePlan {
  // A slot holds the gate, up and down matrices of an expert, in this order.
  struct Layer {
    int layer = 0;
    uint64_t matrix_bytes[3] = {};
    uint64_t offsets[3] = {};  // in a slot
    uint64_t slot_bytes = 0;
    int slots = 0;
  };

  std::vector<Layer> layers;  // that have experts
  bool shared = false;        // all layers use the same slots, for want of memory
  int experts = 0;
  int used = 0;
  uint64_t slot_memory = 0;

  // More tokens need about all experts, and whole banks come faster than single ones.
  static constexpr int kMostTokens = 64;

  bool empty() const { return layers.empty(); }
  // Whether a step of so many tokens goes through the cache, rather than through the ring.
  bool TakesStepOf(int tokens) const;
};

struct DevicePlacementOptions {
  uint64_t weight_memory = 0;          // bytes for resident tensors and the ring
  uint64_t max_resident = UINT64_MAX;  // at most so many bytes of matrices stay
  bool shared_embedding = false;       // the embedding is read from the files' pages
  ExpertCacheOptions expert_cache;
};

// One part of a step's weights (a layer, or some rows of the head).
struct DevicePart {
  int group = 0;
  int64_t first_row = 0;  // of the head
  Transfer resident;      // moved once
  Transfer streamed;      // moved in every step, into `slot`
  int slot = -1;
  bool cached = false;  // what is streamed are experts, and only for steps of many tokens
};

struct DevicePlacement {
  std::vector<DevicePart> parts;  // the input first, then the layers, then the head
  Placement summary;
  uint64_t resident_memory = 0;  // bytes of GPU memory for vectors and resident tensors
  uint64_t ring_memory = 0;      // bytes of GPU memory for the ring
  ExpertCachePlan expert_cache;
};

// `tensors` must outlive the result. RESOURCE_EXHAUSTED if the memory cannot hold the vectors and
// the ring.
absl::StatusOr<DevicePlacement> PlanDevicePlacement(const ModelTensors& tensors,
                                                    const DevicePlacementOptions& options);

// The least weight_memory with which PlanDevicePlacement succeeds.
uint64_t LeastWeightMemory(const ModelTensors& tensors);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_
