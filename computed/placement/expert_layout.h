// How a single expert of a layer lies in memory: its gate, up and down matrices, in this order,
// each at the address modulo 16 that it has in its file (kernels/moe/expert_slot.h). Slots on a GPU
// and entries in the host's memory are alike, so that one is copied to the other as it is.
#ifndef COMPUTED_PLACEMENT_EXPERT_LAYOUT_H_
#define COMPUTED_PLACEMENT_EXPERT_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "computed/model/model_tensors.h"

namespace gguf_offload {

struct ExpertLayout {
  uint64_t matrix_bytes[3] = {};
  uint64_t offsets[3] = {};  // in the slot
  uint64_t slot_bytes = 0;   // a multiple of 256; 0 without experts
};

// Which matrix of an expert a bank is: 0 (gate), 1 (up) or 2 (down); -1 if it is none.
int ExpertMatrixOf(const ModelTensor& tensor);

// The experts of the layer that consists of the tensors of `group`.
ExpertLayout LayOutExpert(const std::vector<ModelTensor>& group);

// Steps of more tokens need about all experts, and whole banks come faster than single ones.
inline constexpr int kMostSingleExpertTokens = 64;

// Whether a step of so many tokens, each of which goes to `used` of `experts` experts, fetches
// single experts into a cache that holds `slots` of each layer's, rather than whole banks.
bool FetchesSingleExperts(int tokens, int used, int experts, int slots);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_EXPERT_LAYOUT_H_
