// Decides what stays in a GPU's memory and what is streamed through it in every step.
//
// Vectors always stay. Then the head, if it fits, and as many layers as fit, evenly spread, so that
// the link works while resident layers compute; then single tensors of the other layers, small ones
// first. The rest crosses the link in every step, a layer at a time, through a ring of slots, the
// head in pieces no larger than a slot. The embedding stays on the host, where the GPU reads the
// few rows that a step needs.
#ifndef COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_
#define COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/placement.h"
#include "computed/placement/transfer.h"

namespace gguf_offload {

struct DevicePlacementOptions {
  uint64_t weight_memory = 0;          // bytes for resident tensors and the ring
  uint64_t max_resident = UINT64_MAX;  // at most so many bytes of matrices stay
  bool shared_embedding = false;       // the embedding is read from the files' pages
};

// One part of a step's weights (a layer, or some rows of the head).
struct DevicePart {
  int group = 0;
  int64_t first_row = 0;  // of the head
  Transfer resident;      // moved once
  Transfer streamed;      // moved in every step, into `slot`
  int slot = -1;
};

struct DevicePlacement {
  std::vector<DevicePart> parts;  // the input first, then the layers, then the head
  Placement summary;
  uint64_t resident_memory = 0;  // bytes of GPU memory for vectors and resident tensors
  uint64_t ring_memory = 0;      // bytes of GPU memory for the ring
};

// `tensors` must outlive the result. RESOURCE_EXHAUSTED if the memory cannot hold the vectors and
// the ring.
absl::StatusOr<DevicePlacement> PlanDevicePlacement(const ModelTensors& tensors,
                                                    const DevicePlacementOptions& options);

// The least weight_memory with which PlanDevicePlacement succeeds.
uint64_t LeastWeightMemory(const ModelTensors& tensors);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_DEVICE_PLACEMENT_H_
