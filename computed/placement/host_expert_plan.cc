#include "computed/placement/host_expert_plan.h"

#include <algorithm>
#include <climits>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

// All of the plan but for the numbers of entries. In `layers_of`: how many layers are in a class.
HostExpertPlan FindClasses(const ModelTensors& tensors, std::vector<int>& layers_of) {
  HostExpertPlan plan;
  const int layers = static_cast<int>(tensors.groups.size()) - 2;
  for (int layer = 0; layer < layers; ++layer) {
    const std::vector<ModelTensor>& group = tensors.groups[tensors.layer_group(layer)];
    HostExpertPlan::Layer& placed = plan.layers.emplace_back();
    static_cast<ExpertLayout&>(placed) = LayOutExpert(group);
    if (placed.slot_bytes == 0) continue;
    for (const ModelTensor& tensor : group) {
      const int matrix = ExpertMatrixOf(tensor);
      if (matrix < 0) continue;
      placed.shards[matrix] = tensor.shard;
      placed.file_offsets[matrix] = tensor.offset;
      placed.file_strides[matrix] = tensor.stride();
    }
    const auto same = std::find_if(
        plan.classes.begin(), plan.classes.end(),
        [&](const HostExpertPlan::SizeClass& c) { return c.entry_bytes == placed.slot_bytes; });
    placed.size_class = static_cast<int>(same - plan.classes.begin());
    if (same == plan.classes.end()) {
      plan.classes.push_back({.entry_bytes = placed.slot_bytes});
      layers_of.push_back(0);
    }
    ++layers_of[placed.size_class];
  }
  return plan;
}

}  // namespace

int HostExpertPlan::EntriesOf(int layer) const {
  const int size_class = layers[layer].size_class;
  return size_class < 0 ? 0 : classes[size_class].entries;
}

int HostExpertPlan::MostTokens(int layer) const {
  const int entries = EntriesOf(layer);
  return entries >= experts ? INT_MAX : entries / used;
}

bool HostExpertPlan::TakesStepOf(int tokens) const {
  if (empty()) return false;
  int entries = experts;
  for (const SizeClass& size_class : classes) entries = std::min(entries, size_class.entries);
  return FetchesSingleExperts(tokens, used, experts, entries);
}

uint64_t HostExpertPlan::OffsetOf(int layer, int expert, int matrix) const {
  const Layer& l = layers[layer];
  return l.offsets[matrix] + (l.file_offsets[matrix] + expert * l.file_strides[matrix]) % 16;
}

absl::StatusOr<HostExpertPlan> PlanHostExperts(const ModelTensors& tensors, int experts, int used,
                                               uint64_t bytes) {
  std::vector<int> layers_of;
  HostExpertPlan plan = FindClasses(tensors, layers_of);
  plan.experts = experts;
  plan.used = used;
  const uint64_t least = LeastHostExpertBytes(tensors, used);
  if (bytes < least) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a host cache of ", bytes, " bytes (--host-cache) is too small for the experts that one ",
        "token uses; the smallest is ", least, " bytes"));
  }
  // Beyond the experts of one token.
  uint64_t wanted = 0;
  const auto more = [&](size_t i) { return uint64_t(experts) * layers_of[i] - used; };
  for (size_t i = 0; i < plan.classes.size(); ++i) wanted += more(i) * plan.classes[i].entry_bytes;
  const uint64_t left = std::min(bytes - least, wanted);
  for (size_t i = 0; i < plan.classes.size(); ++i) {
    HostExpertPlan::SizeClass& size_class = plan.classes[i];
    const uint64_t part =
        wanted == 0 ? 0 : absl::Uint128Low64(absl::uint128(more(i)) * left / wanted);
    size_class.entries = static_cast<int>(used + part);
    plan.bytes += size_class.entries * size_class.entry_bytes;
  }
  return plan;
}

uint64_t LeastHostExpertBytes(const ModelTensors& tensors, int used) {
  std::vector<int> layers_of;
  uint64_t bytes = 0;
  for (const HostExpertPlan::SizeClass& size_class : FindClasses(tensors, layers_of).classes) {
    bytes += used * size_class.entry_bytes;
  }
  return bytes;
}

}  // namespace gguf_offload
