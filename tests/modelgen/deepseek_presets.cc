// DeepSeek-V3 and R1 (arXiv 2412.19437): multi-head latent attention with the projections from the
// latent vector split in two, a few dense layers, then layers of routed and shared experts. Names
// and keys are those of llama.cpp's converter for the architecture deepseek2.
#include <algorithm>
#include <cmath>

#include "tests/modelgen/presets.h"

namespace gguf_offload {
namespace {

// What PresetShape does not say. `shape.head_dim` is the width of a head's values.
struct LatentShape {
  uint32_t query_rank;     // of the queries' latent vector
  uint32_t kv_rank;        // of the keys' and values' latent vector
  uint32_t rope_dim;       // rotated part of a head's key
  uint32_t plain_dim;      // the rest of it
  uint32_t dense_layers;   // leading layers without experts
  uint32_t expert_groups;  // the router picks groups first
  uint32_t expert_groups_used;
};

constexpr double kQueryGain = 1.5;
constexpr double kOutputGain = 0.5;

void SetHyperparameters(const LatentShape& latent, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint32_t key_dim = latent.plain_dim + latent.rope_dim;
  plan->SetCommonHyperparameters();
  plan->Set("leading_dense_block_count", std::min(latent.dense_layers, shape.layers));
  plan->Set("vocab_size", shape.vocabulary);
  plan->Set("attention.q_lora_rank", latent.query_rank);
  plan->Set("attention.kv_lora_rank", latent.kv_rank);
  // With split projections the cache holds one latent vector and rotated key for all heads.
  plan->Set("attention.key_length", latent.kv_rank + latent.rope_dim);
  plan->Set("attention.value_length", latent.kv_rank);
  plan->Set("attention.key_length_mla", key_dim);
  plan->Set("attention.value_length_mla", shape.head_dim);
  plan->Set("expert_feed_forward_length", shape.expert_feed_forward);
  plan->Set("expert_count", shape.experts);
  plan->Set("expert_used_count", shape.experts_used);
  plan->Set("expert_shared_count", 1u);
  const bool grouped = shape.experts % latent.expert_groups == 0;
  plan->Set("expert_group_count", grouped ? latent.expert_groups : 1u);
  plan->Set("expert_group_used_count", grouped ? latent.expert_groups_used : 1u);
  plan->Set("expert_weights_scale", 2.5f);
  plan->Set("expert_weights_norm", true);
  plan->Set("expert_gating_func", 2u);  // sigmoid
  plan->Set("rope.dimension_count", latent.rope_dim);
  plan->Set("rope.scaling.type", std::string("yarn"));
  plan->Set("rope.scaling.factor", 40.0f);
  plan->Set("rope.scaling.original_context_length", 4096u);
  plan->Set("rope.scaling.yarn_log_multiplier", 0.1f);
}

void AddLatentAttention(int layer, const LatentShape& latent, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint64_t heads = shape.heads;
  const uint64_t key_dim = latent.plain_dim + latent.rope_dim;
  const auto name = [layer](std::string_view part) { return LayerTensor(layer, part); };
  plan->AddFloats(name("attn_q_a_norm.weight"), {latent.query_rank}, layer, 1, 0.1);
  plan->AddFloats(name("attn_kv_a_norm.weight"), {latent.kv_rank}, layer, 1, 0.1);
  plan->AddMatrix(name("attn_q_a.weight"), {shape.dim, latent.query_rank}, TensorRole::kAttention,
                  layer);
  plan->AddMatrix(name("attn_q_b.weight"), {latent.query_rank, heads * key_dim},
                  TensorRole::kAttention, layer, kQueryGain);
  plan->AddMatrix(name("attn_kv_a_mqa.weight"), {shape.dim, latent.kv_rank + latent.rope_dim},
                  TensorRole::kLatent, layer);
  // Stored transposed: what has unit gain is the projection from the latent vector to the keys.
  plan->AddMatrix(name("attn_k_b.weight"), {latent.plain_dim, latent.kv_rank, heads},
                  TensorRole::kValue, layer,
                  std::sqrt(static_cast<double>(latent.plain_dim) / latent.kv_rank));
  plan->AddMatrix(name("attn_v_b.weight"), {latent.kv_rank, shape.head_dim, heads},
                  TensorRole::kValue, layer);
  plan->AddMatrix(name("attn_output.weight"), {heads * shape.head_dim, shape.dim},
                  TensorRole::kAttention, layer, kOutputGain);
}

void AddSharedExpert(int layer, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint64_t hidden = shape.expert_feed_forward;
  plan->AddMatrix(LayerTensor(layer, "ffn_gate_shexp.weight"), {shape.dim, hidden},
                  TensorRole::kSharedExpert, layer);
  plan->AddMatrix(LayerTensor(layer, "ffn_up_shexp.weight"), {shape.dim, hidden},
                  TensorRole::kSharedExpert, layer);
  plan->AddMatrix(LayerTensor(layer, "ffn_down_shexp.weight"), {hidden, shape.dim},
                  TensorRole::kSharedExpertDown, layer, 0.5);
}

ModelPlan MakeDeepSeek(std::string_view name, const PresetShape& shape,
                       const LatentShape& latent) {
  ModelPlan plan(name, "deepseek2", TokenizerFamily::kDeepSeek, shape);
  SetHyperparameters(latent, &plan);
  plan.AddEmbedding();
  for (int layer = 0; layer < static_cast<int>(shape.layers); ++layer) {
    plan.AddLayerNorms(layer);
    AddLatentAttention(layer, latent, &plan);
    if (layer < static_cast<int>(latent.dense_layers)) {
      plan.AddFeedForward(layer, shape.feed_forward);
      continue;
    }
    plan.AddFloats(LayerTensor(layer, "exp_probs_b.bias"), {shape.experts}, layer, 0, 0.05);
    plan.AddExperts(layer);
    AddSharedExpert(layer, &plan);
  }
  plan.AddOutput();
  return plan;
}

ModelPlan MakeR1(std::string_view name, const PresetShape& shape) {
  return MakeDeepSeek(name, shape,
                      {.query_rank = 1536,
                       .kv_rank = 512,
                       .rope_dim = 64,
                       .plain_dim = 128,
                       .dense_layers = 3,
                       .expert_groups = 8,
                       .expert_groups_used = 4});
}

ModelPlan MakeTiny(std::string_view name, const PresetShape& shape) {
  return MakeDeepSeek(name, shape,
                      {.query_rank = 256,
                       .kv_rank = 256,
                       .rope_dim = 32,
                       .plain_dim = 64,
                       .dense_layers = 1,
                       .expert_groups = 4,
                       .expert_groups_used = 2});
}

}  // namespace

std::vector<Preset> DeepSeekPresets() {
  const PresetShape r1{.layers = 61,
                            .context = 163840,
                            .dim = 7168,
                            .feed_forward = 18432,
                            .heads = 128,
                            .kv_heads = 1,
                            .head_dim = 128,
                            .vocabulary = 129280,
                            .epsilon = 1e-6f,
                            .freq_base = 10000,
                            .experts = 256,
                            .experts_used = 8,
                            .expert_feed_forward = 2048};
  const PresetShape tiny{.layers = 2,
                              .context = 4096,
                              .dim = 256,
                              .feed_forward = 512,
                              .heads = 4,
                              .kv_heads = 1,
                              .head_dim = 64,
                              .vocabulary = 512,
                              .epsilon = 1e-6f,
                              .freq_base = 10000,
                              .experts = 8,
                              .experts_used = 2,
                              .expert_feed_forward = 256};
  return {{"deepseek-r1", r1, MakeR1}, {"tiny-deepseek2", tiny, MakeTiny}};
}

}  // namespace gguf_offload
