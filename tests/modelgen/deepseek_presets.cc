// DeepSeek-V3 and R1 (arXiv 2412.19437): multi-head latent attention with the projections from the
// latent vector split in two, a few dense layers, then layers of routed and shared experts. And
// DeepSeek-V2-Lite (arXiv 2405.04434) as older files have it: projections in one, queries without a
// latent vector, routing by softmax without groups or bias. Names and keys are those of llama.cpp's
// converter for the architecture deepseek2.
#include <algorithm>
#include <cmath>

#include "tests/modelgen/presets.h"

namespace gguf_offload {
namespace {

// What PresetShape does not say. `shape.head_dim` is the width of a head's values.
struct LatentShape {
  uint32_t query_rank;     // of the queries' latent vector; 0: none
  uint32_t kv_rank;        // of the keys' and values' latent vector
  uint32_t rope_dim;       // rotated part of a head's key
  uint32_t plain_dim;      // the rest of it
  uint32_t dense_layers;   // leading layers without experts
  uint32_t expert_groups;  // the router picks groups first
  uint32_t expert_groups_used;
  uint32_t shared_experts = 1;
  bool lite = false;  // V2-Lite
};

constexpr double kQueryGain = 1.5;
constexpr double kOutputGain = 0.5;

void SetHyperparameters(const LatentShape& latent, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint32_t key_dim = latent.plain_dim + latent.rope_dim;
  plan->SetCommonHyperparameters();
  plan->Set("leading_dense_block_count", std::min(latent.dense_layers, shape.layers));
  plan->Set("vocab_size", shape.vocabulary);
  if (latent.query_rank > 0) plan->Set("attention.q_lora_rank", latent.query_rank);
  plan->Set("attention.kv_lora_rank", latent.kv_rank);
  if (latent.lite) {
    plan->Set("attention.key_length", key_dim);
    plan->Set("attention.value_length", shape.head_dim);
  } else {
    // With split projections the cache holds one latent vector and rotated key for all heads.
    plan->Set("attention.key_length", latent.kv_rank + latent.rope_dim);
    plan->Set("attention.value_length", latent.kv_rank);
    plan->Set("attention.key_length_mla", key_dim);
    plan->Set("attention.value_length_mla", shape.head_dim);
  }
  plan->Set("expert_feed_forward_length", shape.expert_feed_forward);
  plan->Set("expert_count", shape.experts);
  plan->Set("expert_used_count", shape.experts_used);
  plan->Set("expert_shared_count", latent.shared_experts);
  if (latent.lite) {
    plan->Set("expert_weights_scale", 1.0f);
  } else {
    const bool grouped = shape.experts % latent.expert_groups == 0;
    plan->Set("expert_group_count", grouped ? latent.expert_groups : 1u);
    plan->Set("expert_group_used_count", grouped ? latent.expert_groups_used : 1u);
    plan->Set("expert_weights_scale", 2.5f);
    plan->Set("expert_weights_norm", true);
    plan->Set("expert_gating_func", 2u);  // sigmoid
  }
  plan->Set("rope.dimension_count", latent.rope_dim);
  plan->Set("rope.scaling.type", std::string("yarn"));
  plan->Set("rope.scaling.factor", 40.0f);
  plan->Set("rope.scaling.original_context_length", 4096u);
  plan->Set("rope.scaling.yarn_log_multiplier", latent.lite ? 0.0707f : 0.1f);
}

void AddLatentAttention(int layer, const LatentShape& latent, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint64_t heads = shape.heads;
  const uint64_t key_dim = latent.plain_dim + latent.rope_dim;
  const auto name = [layer](std::string_view part) { return LayerTensor(layer, part); };
  if (latent.query_rank > 0) {
    plan->AddFloats(name("attn_q_a_norm.weight"), {latent.query_rank}, layer, 1, 0.1);
  }
  plan->AddFloats(name("attn_kv_a_norm.weight"), {latent.kv_rank}, layer, 1, 0.1);
  if (latent.query_rank > 0) {
    plan->AddMatrix(name("attn_q_a.weight"), {shape.dim, latent.query_rank}, TensorRole::kAttention,
                    layer);
    plan->AddMatrix(name("attn_q_b.weight"), {latent.query_rank, heads * key_dim},
                    TensorRole::kAttention, layer, kQueryGain);
  } else {
    plan->AddMatrix(name("attn_q.weight"), {shape.dim, heads * key_dim}, TensorRole::kAttention,
                    layer, kQueryGain);
  }
  plan->AddMatrix(name("attn_kv_a_mqa.weight"), {shape.dim, latent.kv_rank + latent.rope_dim},
                  TensorRole::kLatent, layer);
  if (latent.lite) {
    plan->AddMatrix(name("attn_kv_b.weight"),
                    {latent.kv_rank, heads * (latent.plain_dim + shape.head_dim)},
                    TensorRole::kValue, layer);
  } else {
    // Stored transposed: what has unit gain is the projection from the latent vector to the keys.
    plan->AddMatrix(name("attn_k_b.weight"), {latent.plain_dim, latent.kv_rank, heads},
                    TensorRole::kValue, layer,
                    std::sqrt(static_cast<double>(latent.plain_dim) / latent.kv_rank));
    plan->AddMatrix(name("attn_v_b.weight"), {latent.kv_rank, shape.head_dim, heads},
                    TensorRole::kValue, layer);
  }
  plan->AddMatrix(name("attn_output.weight"), {heads * shape.head_dim, shape.dim},
                  TensorRole::kAttention, layer, kOutputGain);
}

void AddSharedExperts(int layer, uint32_t count, ModelPlan* plan) {
  const PresetShape& shape = plan->shape;
  const uint64_t hidden = uint64_t{count} * shape.expert_feed_forward;
  plan->AddMatrix(LayerTensor(layer, "ffn_gate_shexp.weight"), {shape.dim, hidden},
                  TensorRole::kSharedExpert, layer);
  plan->AddMatrix(LayerTensor(layer, "ffn_up_shexp.weight"), {shape.dim, hidden},
                  TensorRole::kSharedExpert, layer);
  plan->AddMatrix(LayerTensor(layer, "ffn_down_shexp.weight"), {hidden, shape.dim},
                  TensorRole::kSharedExpertDown, layer, 0.5);
}

ModelPlan MakeDeepSeek(std::string_view name, const PresetShape& shape, const LatentShape& latent) {
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
    if (!latent.lite) {
      plan.AddFloats(LayerTensor(layer, "exp_probs_b.bias"), {shape.experts}, layer, 0, 0.05);
    }
    plan.AddExperts(layer);
    AddSharedExperts(layer, latent.shared_experts, &plan);
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

ModelPlan MakeV2Lite(std::string_view name, const PresetShape& shape) {
  return MakeDeepSeek(name, shape,
                      {.query_rank = 0,
                       .kv_rank = 512,
                       .rope_dim = 64,
                       .plain_dim = 128,
                       .dense_layers = 1,
                       .expert_groups = 0,
                       .expert_groups_used = 0,
                       .shared_experts = 2,
                       .lite = true});
}

ModelPlan MakeTinyLite(std::string_view name, const PresetShape& shape) {
  return MakeDeepSeek(name, shape,
                      {.query_rank = 0,
                       .kv_rank = 256,
                       .rope_dim = 32,
                       .plain_dim = 64,
                       .dense_layers = 1,
                       .expert_groups = 0,
                       .expert_groups_used = 0,
                       .shared_experts = 2,
                       .lite = true});
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
  PresetShape v2_lite = r1;
  v2_lite.layers = 27;
  v2_lite.dim = 2048;
  v2_lite.feed_forward = 10944;
  v2_lite.heads = v2_lite.kv_heads = 16;
  v2_lite.vocabulary = 102400;
  v2_lite.experts = 64;
  v2_lite.experts_used = 6;
  v2_lite.expert_feed_forward = 1408;
  PresetShape tiny_lite = tiny;
  tiny_lite.kv_heads = tiny.heads;
  return {{"deepseek-r1", r1, MakeR1},
          {"deepseek-v2-lite", v2_lite, MakeV2Lite},
          {"tiny-deepseek2", tiny, MakeTiny},
          {"tiny-deepseek2-lite", tiny_lite, MakeTinyLite}};
}

}  // namespace gguf_offload
