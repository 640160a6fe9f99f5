// Qwen2.5 (arXiv 2412.15115) and Qwen3, dense and with experts (arXiv 2505.09388), as llama.cpp's
// converter names their parts.
#include "tests/modelgen/grouped_attention.h"
#include "tests/modelgen/presets.h"

namespace gguf_offload {
namespace {

ModelPlan MakeQwen2(std::string_view name, const PresetShape& shape) {
  ModelPlan plan(name, "qwen2", TokenizerFamily::kQwen2, shape);
  plan.SetCommonHyperparameters();
  if (shape.heads * shape.head_dim != shape.dim) {
    plan.Set("attention.key_length", shape.head_dim);
    plan.Set("attention.value_length", shape.head_dim);
  }
  plan.AddEmbedding();
  for (int layer = 0; layer < static_cast<int>(shape.layers); ++layer) {
    plan.AddLayerNorms(layer);
    AddGroupedAttention(layer, {.biases = true}, &plan);
    plan.AddFeedForward(layer, shape.feed_forward);
  }
  plan.AddOutput();
  return plan;
}

ModelPlan MakeQwen3(std::string_view name, const PresetShape& shape) {
  const bool has_experts = shape.experts != 0;
  ModelPlan plan(name, has_experts ? "qwen3moe" : "qwen3", TokenizerFamily::kQwen3, shape);
  plan.SetCommonHyperparameters();
  plan.Set("attention.key_length", shape.head_dim);
  plan.Set("attention.value_length", shape.head_dim);
  if (has_experts) {
    plan.Set("expert_count", shape.experts);
    plan.Set("expert_used_count", shape.experts_used);
    plan.Set("expert_feed_forward_length", shape.expert_feed_forward);
  }
  plan.AddEmbedding();
  for (int layer = 0; layer < static_cast<int>(shape.layers); ++layer) {
    plan.AddLayerNorms(layer);
    AddGroupedAttention(layer, {.head_norms = true}, &plan);
    if (has_experts) {
      plan.AddExperts(layer);
    } else {
      plan.AddFeedForward(layer, shape.feed_forward);
    }
  }
  plan.AddOutput();
  return plan;
}

}  // namespace

std::vector<Preset> QwenPresets() {
  const PresetShape qwen25_half_b{.layers = 24,
                                       .context = 32768,
                                       .dim = 896,
                                       .feed_forward = 4864,
                                       .heads = 14,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .vocabulary = 151936,
                                       .epsilon = 1e-6f,
                                       .freq_base = 1000000,
                                       .tied = true};
  PresetShape qwen3_8b = qwen25_half_b;
  qwen3_8b.layers = 36;
  qwen3_8b.context = 40960;
  qwen3_8b.dim = 4096;
  qwen3_8b.feed_forward = 12288;
  qwen3_8b.heads = 32;
  qwen3_8b.kv_heads = 8;
  qwen3_8b.head_dim = 128;
  qwen3_8b.tied = false;

  PresetShape qwen3_30b_a3b = qwen3_8b;
  qwen3_30b_a3b.layers = 48;
  qwen3_30b_a3b.dim = 2048;
  qwen3_30b_a3b.feed_forward = 6144;
  qwen3_30b_a3b.kv_heads = 4;
  qwen3_30b_a3b.experts = 128;
  qwen3_30b_a3b.experts_used = 8;
  qwen3_30b_a3b.expert_feed_forward = 768;

  PresetShape tiny = qwen25_half_b;
  tiny.layers = 2;
  tiny.context = 2048;
  tiny.dim = 256;
  tiny.feed_forward = 512;
  tiny.heads = 4;
  tiny.vocabulary = 512;
  PresetShape tiny_untied = tiny;
  tiny_untied.tied = false;
  PresetShape tiny_experts = tiny_untied;
  tiny_experts.experts = 8;
  tiny_experts.experts_used = 2;
  tiny_experts.expert_feed_forward = 256;
  return {{"qwen2.5-0.5b", qwen25_half_b, MakeQwen2},  {"qwen3-8b", qwen3_8b, MakeQwen3},
          {"qwen3-30b-a3b", qwen3_30b_a3b, MakeQwen3}, {"tiny-qwen2", tiny, MakeQwen2},
          {"tiny-qwen3", tiny_untied, MakeQwen3},      {"tiny-qwen3moe", tiny_experts, MakeQwen3}};
}

}  // namespace gguf_offload
