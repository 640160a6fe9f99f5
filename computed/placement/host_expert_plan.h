// Single experts in the host's memory, of a model whose weights come over the network: how many of
// them a cache has room for.
//
// Layers may differ in the size of an expert (quantizations are mixed within a model). Those of
// equal size are a class and share its entries; the memory is divided so that every class holds the
// same part of its experts, and at least those of one token.
#ifndef COMPUTED_PLACEMENT_HOST_EXPERT_PLAN_H_
#define COMPUTED_PLACEMENT_HOST_EXPERT_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/expert_layout.h"

namespace gguf_offload {

struct HostExpertPlan {
  struct Layer : ExpertLayout {
    uint32_t shards[3] = {};
    uint64_t file_offsets[3] = {};  // of expert 0
    uint64_t file_strides[3] = {};  // from one expert to the next
    int size_class = -1;            // -1: a layer without experts
  };
  struct SizeClass {
    uint64_t entry_bytes = 0;
    int entries = 0;
  };

  std::vector<Layer> layers;  // (layers of the model)
  std::vector<SizeClass> classes;
  int experts = 0;     // of a layer
  int used = 0;        // by a token
  uint64_t bytes = 0;  // of all entries

  bool empty() const { return classes.empty(); }
  // Entries that experts of the layer may have; 0 without experts.
  int EntriesOf(int layer) const;
  // The most tokens whose experts of the layer find room at the same time.
  int MostTokens(int layer) const;
  // Whether a step of so many tokens uses single experts, rather than whole banks.
  bool TakesStepOf(int tokens) const;
  // Where in its entry a matrix of an expert begins: it keeps its file offset modulo 16.
  uint64_t OffsetOf(int layer, int expert, int matrix) const;
};

// As many entries as `bytes` have room for, at most one for each expert. `used` of `experts`
// experts are used by a token. Empty for a model without experts; RESOURCE_EXHAUSTED, naming the
// smallest --host-cache that works, if the experts of one token do not fit.
absl::StatusOr<HostExpertPlan> PlanHostExperts(const ModelTensors& tensors, int experts, int used,
                                               uint64_t bytes);

// The least `bytes` with which PlanHostExperts succeeds.
uint64_t LeastHostExpertBytes(const ModelTensors& tensors, int used);

}  // namespace gguf_offload

#endif  // COMPUTED_PLACEMENT_HOST_EXPERT_PLAN_H_
