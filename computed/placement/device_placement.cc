#include "computed/placement/device_placement.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/moe/expert_slot.h"

namespace gguf_offload {
namespace {

constexpr int kRingSlots = 3;
// Pieces of memory begin at multiples of this, with room behind for reading whole vectors.
constexpr uint64_t kAlignment = 256;
uint64_t Rounded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
uint64_t PieceBytes(uint64_t bytes) { return bytes == 0 ? 0 : Rounded(bytes) + kAlignment; }

uint64_t VectorMemory(const ModelTensors& tensors) {
  uint64_t bytes = 0;
  for (const auto& group : tensors.groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.is_vector()) bytes += Rounded(tensor.columns * sizeof(float));
    }
  }
  return bytes;
}

// The matrix that the logits come from.
const ModelTensor* HeadMatrix(const ModelTensors& tensors) {
  const int group = tensors.tied_head ? tensors.input_group() : tensors.head_group();
  const TensorId id = tensors.tied_head ? kTokenEmbedding : kOutput;
  for (const ModelTensor& tensor : tensors.groups[group]) {
    if (tensor.id == id && tensor.role == WeightRole::kWeight) return &tensor;
  }
  return nullptr;
}

std::vector<TensorRows> Matrices(const std::vector<ModelTensor>& group) {
  std::vector<TensorRows> matrices;
  for (const ModelTensor& tensor : group) {
    if (!tensor.is_vector()) matrices.push_back({&tensor});
  }
  return matrices;
}

// Whether layer `layer` of `layers` is one of the `streamed` ones, which are evenly spread.
bool IsStreamed(int layer, int layers, int streamed) {
  return (layer + 1) * streamed / layers > layer * streamed / layers;
}

// The matrices of a group that are experts, or those that are not.
std::vector<TensorRows> Matrices(const std::vector<ModelTensor>& group, bool experts) {
  std::vector<TensorRows> matrices = Matrices(group);
  std::erase_if(matrices, [experts](const TensorRows& matrix) {
    return (ExpertMatrixOf(*matrix.tensor) >= 0) != experts;
  });
  return matrices;
}

class Planner {
 public:
  Planner(const ModelTensors& tensors, const DevicePlacementOptions& options)
      : tensors_(tensors), options_(options), layers_(static_cast<int>(tensors.groups.size()) - 2) {
    for (int layer = 0; layer < layers_; ++layer) {
      layer_transfers_.push_back(
          PlanTransfer(Matrices(tensors.groups[tensors.layer_group(layer)])));
      layer_bytes_.push_back(PieceBytes(layer_transfers_.back().memory_bytes));
      slot_bytes_ = std::max(slot_bytes_, layer_bytes_.back());
    }
    if (const ModelTensor* head = HeadMatrix(tensors)) head_transfer_ = PlanTransfer({{head}});
    head_bytes_ = PieceBytes(head_transfer_.memory_bytes);
    vector_bytes_ = VectorMemory(tensors);
  }

  uint64_t FullMemory() const {
    uint64_t bytes = vector_bytes_ + head_bytes_;
    for (uint64_t layer : layer_bytes_) bytes += layer;
    return bytes;
  }
  uint64_t LeastMemory() const {
    return std::min(FullMemory(), vector_bytes_ + RingSlots(layers_ + 1) * slot_bytes_);
  }

  absl::StatusOr<DevicePlacement> Plan() {
    if (options_.weight_memory < LeastMemory()) {
      return absl::ResourceExhaustedError(
          absl::StrCat(options_.weight_memory, " bytes for weights are too few; the vectors take ",
                       vector_bytes_, " and the ring ", LeastMemory() - vector_bytes_));
    }
    const bool all_fits = Fits(head_bytes_ + ResidentLayerBytes(0), 0) &&
                          options_.expert_cache.max_bytes == UINT64_MAX;
    if (!all_fits && options_.expert_cache.possible && PlanExpertCache()) {
      head_resident_ = true;
      BuildInputPart();
      for (int layer = 0; layer < layers_; ++layer) BuildCachedLayerPart(layer);
    } else {
      ChooseResidents();
      BuildInputPart();
      for (int layer = 0; layer < layers_; ++layer) BuildLayerPart(layer);
    }
    BuildHeadParts();
    AssignSlots();
    Summarize();
    return std::move(plan_);
  }

 private:
  static uint64_t RingSlots(int streamed_parts) { return std::min(kRingSlots, streamed_parts); }

  bool Fits(uint64_t resident, uint64_t ring) const {
    return vector_bytes_ + resident + ring <= options_.weight_memory &&
           resident <= options_.max_resident;
  }

  uint64_t ResidentLayerBytes(int streamed) const {
    uint64_t bytes = 0;
    for (int layer = 0; layer < layers_; ++layer) {
      if (!IsStreamed(layer, layers_, streamed)) bytes += layer_bytes_[layer];
    }
    return bytes;
  }

  void ChooseResidents() {
    if (Fits(head_bytes_ + ResidentLayerBytes(0), 0)) {
      streamed_layers_ = 0;
      head_resident_ = true;
      return;
    }
    const uint64_t ring = RingSlots(layers_ + 1) * slot_bytes_;
    head_resident_ = Fits(head_bytes_, ring);
    const uint64_t head = head_resident_ ? head_bytes_ : 0;
    for (streamed_layers_ = head_resident_ ? 1 : 0; streamed_layers_ < layers_;
         ++streamed_layers_) {
      if (Fits(head + ResidentLayerBytes(streamed_layers_), ring)) break;
    }
    uint64_t resident = head + ResidentLayerBytes(streamed_layers_);

    std::vector<std::tuple<uint64_t, int, const ModelTensor*>> small;
    for (int layer = 0; layer < layers_; ++layer) {
      if (!IsStreamed(layer, layers_, streamed_layers_)) continue;
      for (const TensorRows& matrix : Matrices(tensors_.groups[tensors_.layer_group(layer)])) {
        small.emplace_back(matrix.tensor->bytes, layer, matrix.tensor);
      }
    }
    std::sort(small.begin(), small.end());
    // Each may need a copy and a piece of memory of its own.
    for (const auto& [bytes, layer, tensor] : small) {
      if (!Fits(resident + PieceBytes(bytes) + kAlignment, ring)) break;
      resident += PieceBytes(bytes) + kAlignment;
      resident_tensors_.push_back(tensor);
    }
  }

  // Slots for experts in the memory that all else leaves; false if they are too few.
  bool PlanExpertCache() {
    uint64_t resident = head_bytes_, ring_slot = 0, layer_slots = 0, largest_slot = 0;
    ExpertCachePlan cache{.experts = options_.expert_cache.experts,
                          .used = options_.expert_cache.used};
    for (int layer = 0; layer < layers_; ++layer) {
      const std::vector<ModelTensor>& group = tensors_.groups[tensors_.layer_group(layer)];
      resident += PieceBytes(PlanTransfer(Matrices(group, false)).memory_bytes);
      const std::vector<TensorRows> experts = Matrices(group, true);
      if (experts.empty()) continue;
      ring_slot = std::max(ring_slot, PieceBytes(PlanTransfer(experts).memory_bytes));
      cache.layers.push_back({LayOutExpert(group), layer});
      layer_slots += cache.layers.back().slot_bytes;
      largest_slot = std::max(largest_slot, cache.layers.back().slot_bytes);
    }
    const uint64_t ring = RingSlots(static_cast<int>(cache.layers.size())) * ring_slot;
    if (cache.empty() || !Fits(resident, ring)) return false;
    uint64_t left = options_.weight_memory - vector_bytes_ - resident - ring;
    const uint64_t least = cache.used * largest_slot;
    if (left < least) return false;
    left = std::min(left, std::max(least, options_.expert_cache.max_bytes));
    uint64_t slots = std::min<uint64_t>(
        {left / layer_slots, uint64_t(cache.experts), uint64_t(kMaxExpertSlots)});
    cache.shared = slots < uint64_t(cache.used);
    if (cache.shared) {
      slots = std::min<uint64_t>(left / largest_slot, kMaxExpertSlots);
      for (ExpertCachePlan::Layer& layer : cache.layers) layer.slot_bytes = largest_slot;
    }
    cache.slot_memory = slots * (cache.shared ? largest_slot : layer_slots);
    for (ExpertCachePlan::Layer& layer : cache.layers) layer.slots = static_cast<int>(slots);
    plan_.expert_cache = std::move(cache);
    return true;
  }

  void BuildCachedLayerPart(int layer) {
    DevicePart& part = plan_.parts.emplace_back();
    part.group = tensors_.layer_group(layer);
    part.resident = PlanTransfer(Matrices(tensors_.groups[part.group], false));
    part.streamed = PlanTransfer(Matrices(tensors_.groups[part.group], true));
    part.cached = !part.streamed.empty();
  }

  void BuildInputPart() {
    DevicePart& part = plan_.parts.emplace_back();
    part.group = tensors_.input_group();
  }

  void BuildLayerPart(int layer) {
    DevicePart& part = plan_.parts.emplace_back();
    part.group = tensors_.layer_group(layer);
    if (!IsStreamed(layer, layers_, streamed_layers_)) {
      part.resident = layer_transfers_[layer];
      return;
    }
    std::vector<TensorRows> resident, streamed;
    for (const TensorRows& matrix : Matrices(tensors_.groups[part.group])) {
      const bool stays = std::find(resident_tensors_.begin(), resident_tensors_.end(),
                                   matrix.tensor) != resident_tensors_.end();
      (stays ? resident : streamed).push_back(matrix);
    }
    part.resident = PlanTransfer(resident);
    part.streamed = PlanTransfer(streamed);
  }

  void BuildHeadParts() {
    const ModelTensor* head = HeadMatrix(tensors_);
    if (head_resident_ || head == nullptr) {
      DevicePart& part = plan_.parts.emplace_back();
      part.group = tensors_.head_group();
      part.resident = head_transfer_;
      return;
    }
    // Pieces begin at multiples of 16 rows, so that they are aligned as the tensor is.
    const auto rows_of = [&](int pieces) { return ((head->rows - 1) / pieces / 16 + 1) * 16; };
    const auto count_of = [&](int64_t rows) {
      return static_cast<int>((head->rows - 1) / rows + 1);
    };
    const uint64_t row_bytes = head->bytes / head->rows;
    int pieces = 1;
    while (rows_of(pieces) > 16 &&
           PieceBytes(rows_of(pieces) * row_bytes + kAlignment) > slot_bytes_) {
      ++pieces;
    }
    // A few more make the ring come out even, so that a step ends where the next begins.
    for (int more = pieces; more < pieces + 2 * kRingSlots; ++more) {
      if ((streamed_layers_ + count_of(rows_of(more))) % kRingSlots == 0) {
        pieces = more;
        break;
      }
    }
    const int64_t rows = rows_of(pieces);
    for (int64_t first = 0; first < head->rows; first += rows) {
      DevicePart& part = plan_.parts.emplace_back();
      part.group = tensors_.head_group();
      part.first_row = first;
      part.streamed = PlanTransfer({{head, first, std::min(rows, head->rows - first)}});
    }
  }

  void AssignSlots() {
    int streamed = 0;
    for (const DevicePart& part : plan_.parts) streamed += !part.streamed.empty();
    Placement& summary = plan_.summary;
    summary.ring_slots = static_cast<int>(RingSlots(streamed));
    int next = 0;
    for (DevicePart& part : plan_.parts) {
      if (part.streamed.empty()) continue;
      part.slot = next++ % summary.ring_slots;
      summary.slot_bytes = std::max(summary.slot_bytes, PieceBytes(part.streamed.memory_bytes));
    }
    plan_.ring_memory = summary.ring_slots * summary.slot_bytes;
  }

  void Summarize() {
    Placement& summary = plan_.summary;
    plan_.resident_memory = vector_bytes_;
    for (const DevicePart& part : plan_.parts) {
      plan_.resident_memory += PieceBytes(part.resident.memory_bytes);
    }
    summary.streamed_groups.assign(tensors_.groups.size(), false);
    for (const auto& group : tensors_.groups) {
      std::vector<v1::Place>& places = summary.places.emplace_back();
      for (const ModelTensor& tensor : group) {
        places.push_back(PlaceOf(tensor));
        const uint64_t bytes = tensor.is_vector() ? tensor.columns * sizeof(float) : tensor.bytes;
        switch (places.back()) {
          case v1::PLACE_STREAMED:
            summary.streamed_bytes += bytes;
            summary.streamed_groups[&group - tensors_.groups.data()] = true;
            break;
          case v1::PLACE_CACHED:
            summary.cached_bytes += bytes;
            break;
          case v1::PLACE_SHARED_PAGES:
            summary.shared_bytes += bytes;
            break;
          default:
            summary.resident_bytes += bytes;
        }
      }
    }
  }

  v1::Place PlaceOf(const ModelTensor& tensor) const {
    if (tensor.is_vector()) return v1::PLACE_RESIDENT;
    bool moved = false;
    for (const DevicePart& part : plan_.parts) {
      for (const PlacedTensor& placed : part.streamed.tensors) {
        if (placed.tensor != &tensor) continue;
        return part.cached ? v1::PLACE_CACHED : v1::PLACE_STREAMED;
      }
      for (const PlacedTensor& placed : part.resident.tensors) moved |= placed.tensor == &tensor;
    }
    // The embedding, unless it is also the head.
    if (!moved && options_.shared_embedding) return v1::PLACE_SHARED_PAGES;
    return v1::PLACE_RESIDENT;
  }

  const ModelTensors& tensors_;
  const DevicePlacementOptions options_;
  const int layers_;
  std::vector<Transfer> layer_transfers_;  // (layers) of whole layers
  std::vector<uint64_t> layer_bytes_;      // (layers) memory
  Transfer head_transfer_;
  uint64_t head_bytes_ = 0;
  uint64_t vector_bytes_ = 0;
  uint64_t slot_bytes_ = 0;  // for the largest layer

  int streamed_layers_ = 0;
  bool head_resident_ = false;
  std::vector<const ModelTensor*> resident_tensors_;  // of streamed layers
  DevicePlacement plan_;
};

}  // namespace

bool ExpertCachePlan::TakesStepOf(int tokens) const {
  return !empty() && FetchesSingleExperts(tokens, used, experts, layers[0].slots);
}

absl::StatusOr<DevicePlacement> PlanDevicePlacement(const ModelTensors& tensors,
                                                    const DevicePlacementOptions& options) {
  return Planner(tensors, options).Plan();
}

uint64_t LeastWeightMemory(const ModelTensors& tensors) {
  return Planner(tensors, {}).LeastMemory();
}

}  // namespace gguf_offload
