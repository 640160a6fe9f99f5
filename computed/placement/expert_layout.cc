#include "computed/placement/expert_layout.h"

#include <algorithm>

#include "kernels/moe/expert_slot.h"

namespace gguf_offload {

int ExpertMatrixOf(const ModelTensor& tensor) {
  if (tensor.role != WeightRole::kWeight) return -1;
  switch (tensor.id) {
    case kExpertGate:
      return 0;
    case kExpertUp:
      return 1;
    case kExpertDown:
      return 2;
    default:
      return -1;
  }
}

ExpertLayout LayOutExpert(const std::vector<ModelTensor>& group) {
  constexpr uint64_t kAlignment = 256;
  ExpertLayout layout;
  for (const ModelTensor& tensor : group) {
    const int matrix = ExpertMatrixOf(tensor);
    if (matrix >= 0) layout.matrix_bytes[matrix] = tensor.matrix_bytes();
  }
  if (layout.matrix_bytes[0] == 0) return layout;
  for (int i = 0; i < 3; ++i) {
    layout.offsets[i] = layout.slot_bytes;
    layout.slot_bytes += ExpertSlotBytes(static_cast<int64_t>(layout.matrix_bytes[i]));
  }
  layout.slot_bytes = (layout.slot_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return layout;
}

bool FetchesSingleExperts(int tokens, int used, int experts, int slots) {
  if (tokens > kMostSingleExpertTokens) return false;
  // With fewer slots than a step wants, it fetches some experts more than once.
  return tokens * used <= experts || std::min(tokens * used, experts) <= slots;
}

}  // namespace gguf_offload
