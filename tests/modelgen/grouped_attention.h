// Grouped-query attention as Llama and Qwen have it.
#ifndef TESTS_MODELGEN_GROUPED_ATTENTION_H_
#define TESTS_MODELGEN_GROUPED_ATTENTION_H_

#include "tests/modelgen/model_plan.h"

namespace gguf_offload {

struct GroupedAttentionParts {
  bool biases = false;      // of queries, keys and values (Qwen2)
  bool head_norms = false;  // norms of each head's queries and keys (Qwen3)
};

void AddGroupedAttention(int layer, const GroupedAttentionParts& parts, ModelPlan* plan);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_GROUPED_ATTENTION_H_
