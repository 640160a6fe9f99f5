#include "computed/placement/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

// Bytes of a group's matrices: what streaming it would fetch in every step.
uint64_t MatrixBytes(const std::vector<ModelTensor>& group) {
  uint64_t bytes = 0;
  for (const ModelTensor& tensor : group) {
    if (!tensor.is_vector()) bytes += tensor.bytes;
  }
  return bytes;
}

// Vectors are kept as float32.
uint64_t VectorBytes(const ModelTensors& tensors) {
  uint64_t bytes = 0;
  for (const auto& group : tensors.groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.is_vector()) bytes += tensor.columns * sizeof(float);
    }
  }
  return bytes;
}

// How many of the layers have to be streamed so that everything fits the budget; -1 if even all
// are too few.
int LayersToStream(const std::vector<uint64_t>& layer_bytes, uint64_t outer_bytes,
                   const PlacementOptions& options) {
  uint64_t resident = outer_bytes, largest = 0;
  for (uint64_t bytes : layer_bytes) {
    resident += bytes;
    largest = std::max(largest, bytes);
  }
  if (resident <= options.memory_budget) return 0;
  const int layers = static_cast<int>(layer_bytes.size());
  // A layer less resident each time; layers are of about the same size.
  for (int streamed = 1; streamed <= layers; ++streamed) {
    resident = outer_bytes + largest * std::min(options.ring_slots, streamed);
    for (int layer = 0; layer < layers; ++layer) {
      const bool is_streamed = (layer + 1) * streamed / layers > layer * streamed / layers;
      if (!is_streamed) resident += layer_bytes[layer];
    }
    if (resident <= options.memory_budget) return streamed;
  }
  return -1;
}

// Gives experts what of the budget the ring and all else leave.
absl::Status PlanCachedExperts(const ModelTensors& tensors, const PlacementOptions& options,
                               Placement& placement) {
  uint64_t outer_bytes = VectorBytes(tensors), largest = 0;
  int banks = 0;
  for (const auto& group : tensors.groups) {
    uint64_t bank_bytes = 0;
    for (const ModelTensor& tensor : group) {
      if (ExpertMatrixOf(tensor) >= 0) bank_bytes += tensor.bytes;
    }
    outer_bytes += MatrixBytes(group) - bank_bytes;
    largest = std::max(largest, bank_bytes);
    banks += bank_bytes > 0;
  }
  const int ring_slots = std::min(options.ring_slots, banks);
  const uint64_t fixed = outer_bytes + ring_slots * largest;
  const uint64_t least = LeastHostExpertBytes(tensors, options.experts_used);
  const uint64_t left = options.memory_budget - std::min(fixed, options.memory_budget);
  if (left < least) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a memory budget of ", options.memory_budget, " bytes is too small for a cache of ",
        "experts: all else takes ", outer_bytes, " bytes, ", ring_slots, " ring slots of ", largest,
        " bytes each, and the experts of a token ", least, "; the smallest budget is ",
        fixed + least, " bytes"));
  }
  absl::StatusOr<HostExpertPlan> plan = PlanHostExperts(
      tensors, options.experts, options.experts_used, std::min(left, options.host_cache));
  if (!plan.ok()) return plan.status();
  placement.host_experts = *std::move(plan);
  placement.ring_slots = ring_slots;
  placement.slot_bytes = largest;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> PlanPlacement(const ModelTensors& tensors,
                                        const PlacementOptions& options) {
  const int groups = static_cast<int>(tensors.groups.size());
  const int layers = groups - 2;
  Placement placement;
  placement.streamed_groups.assign(groups, false);

  bool cached = !options.shared_pages && options.experts > 0 && options.host_cache > 0;
  if (cached && options.host_cache == UINT64_MAX) {
    uint64_t all = VectorBytes(tensors);
    for (const auto& group : tensors.groups) all += MatrixBytes(group);
    cached = all > options.memory_budget;
  }
  if (cached) {
    const absl::Status status = PlanCachedExperts(tensors, options, placement);
    if (!status.ok() && options.host_cache != UINT64_MAX) return status;
    cached = status.ok();
  }
  if (!options.shared_pages && !cached) {
    std::vector<uint64_t> layer_bytes;
    for (int layer = 0; layer < layers; ++layer) {
      layer_bytes.push_back(MatrixBytes(tensors.groups[tensors.layer_group(layer)]));
    }
    const uint64_t outer_bytes = MatrixBytes(tensors.groups[tensors.input_group()]) +
                                 MatrixBytes(tensors.groups[tensors.head_group()]) +
                                 VectorBytes(tensors);
    const int streamed = LayersToStream(layer_bytes, outer_bytes, options);
    const uint64_t largest = *std::max_element(layer_bytes.begin(), layer_bytes.end());
    const int ring_slots = std::min(options.ring_slots, layers);
    if (streamed < 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a memory budget of ", options.memory_budget, " bytes is too small: embedding, head and ",
          "vectors take ", outer_bytes, " bytes and ", ring_slots, " ring slots of ", largest,
          " bytes each; the smallest budget is ", outer_bytes + largest * ring_slots, " bytes"));
    }
    if (streamed > 0) {
      placement.ring_slots = std::min(options.ring_slots, streamed);
      placement.slot_bytes = largest;
    }
    // Streamed layers are spread evenly, so that the link works while resident ones compute.
    for (int layer = 0; layer < layers; ++layer) {
      placement.streamed_groups[tensors.layer_group(layer)] =
          (layer + 1) * streamed / layers > layer * streamed / layers;
    }
  }

  for (int group = 0; group < groups; ++group) {
    std::vector<v1::Place>& places = placement.places.emplace_back();
    for (const ModelTensor& tensor : tensors.groups[group]) {
      if (tensor.is_vector()) {
        places.push_back(v1::PLACE_RESIDENT);
        placement.resident_bytes += tensor.columns * sizeof(float);
      } else if (options.shared_pages) {
        places.push_back(v1::PLACE_SHARED_PAGES);
        placement.shared_bytes += tensor.bytes;
      } else if (placement.streamed_groups[group]) {
        places.push_back(v1::PLACE_STREAMED);
        placement.streamed_bytes += tensor.bytes;
      } else if (cached && ExpertMatrixOf(tensor) >= 0) {
        places.push_back(v1::PLACE_CACHED);
        placement.cached_bytes += tensor.bytes;
      } else {
        places.push_back(v1::PLACE_RESIDENT);
        placement.resident_bytes += tensor.bytes;
      }
    }
  }
  return placement;
}

}  // namespace gguf_offload
