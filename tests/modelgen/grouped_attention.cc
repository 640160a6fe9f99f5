#include "tests/modelgen/grouped_attention.h"

#include <string>

namespace gguf_offload {
namespace {

// Queries larger than unit deviation make attention prefer some positions clearly to others.
constexpr double kQueryGain = 2;
constexpr double kOutputGain = 0.5;
constexpr double kBiasDeviation = 0.1;

}  // namespace

void AddGroupedAttention(int layer, const GroupedAttentionParts& parts, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint64_t query_rows = uint64_t{shape.heads} * shape.head_dim;
  const uint64_t kv_rows = uint64_t{shape.kv_heads} * shape.head_dim;
  const auto project = [&](const std::string& part, uint64_t rows, TensorRole role, double gain) {
    plan->AddMatrix(LayerTensor(layer, part + ".weight"), {shape.dim, rows}, role, layer, gain);
    if (!parts.biases) return;
    plan->AddFloats(LayerTensor(layer, part + ".bias"), {rows}, layer, 0, kBiasDeviation);
  };
  project("attn_q", query_rows, TensorRole::kAttention, kQueryGain);
  project("attn_k", kv_rows, TensorRole::kAttention, 1);
  project("attn_v", kv_rows, TensorRole::kValue, 1);
  if (parts.head_norms) {
    plan->AddFloats(LayerTensor(layer, "attn_q_norm.weight"), {shape.head_dim}, layer, 1.5, 0.1);
    plan->AddFloats(LayerTensor(layer, "attn_k_norm.weight"), {shape.head_dim}, layer, 1.5, 0.1);
  }
  plan->AddMatrix(LayerTensor(layer, "attn_output.weight"), {query_rows, shape.dim},
                  TensorRole::kAttention, layer, kOutputGain);
}

}  // namespace gguf_offload
