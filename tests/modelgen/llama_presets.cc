// Llama 3 (github.com/meta-llama/llama3), as llama.cpp's converter names its parts.
#include "tests/modelgen/grouped_attention.h"
#include "tests/modelgen/presets.h"

namespace gguf_offload {
namespace {

ModelPlan MakeLlama(std::string_view name, const PresetShape& shape) {
  ModelPlan plan(name, "llama", TokenizerFamily::kLlama3, shape);
  plan.SetCommonHyperparameters();
  plan.Set("vocab_size", shape.vocabulary);
  plan.Set("rope.dimension_count", shape.head_dim);
  if (shape.heads * shape.head_dim != shape.dim) {
    plan.Set("attention.key_length", shape.head_dim);
    plan.Set("attention.value_length", shape.head_dim);
  }
  plan.AddEmbedding();
  for (int layer = 0; layer < static_cast<int>(shape.layers); ++layer) {
    plan.AddLayerNorms(layer);
    AddGroupedAttention(layer, {}, &plan);
    plan.AddFeedForward(layer, shape.feed_forward);
  }
  plan.AddOutput();
  return plan;
}

}  // namespace

std::vector<Preset> LlamaPresets() {
  const PresetShape llama3_8b{.layers = 32,
                                   .context = 8192,
                                   .dim = 4096,
                                   .feed_forward = 14336,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .vocabulary = 128256,
                                   .epsilon = 1e-5f,
                                   .freq_base = 500000};
  const PresetShape tiny{.layers = 2,
                              .context = 2048,
                              .dim = 256,
                              .feed_forward = 512,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 64,
                              .vocabulary = 512,
                              .epsilon = 1e-5f,
                              .freq_base = 500000};
  return {{"llama-3-8b", llama3_8b, MakeLlama}, {"tiny-llama", tiny, MakeLlama}};
}

}  // namespace gguf_offload
