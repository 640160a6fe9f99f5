// The models that can be generated, by name.
//
// Full size, with the true shapes and metadata: qwen2.5-0.5b, qwen3-8b, llama-3-8b, qwen3-30b-a3b,
// deepseek-r1 (projections split: attn_k_b, attn_v_b), deepseek-v2-lite (combined: attn_kv_b). For
// tests, two layers of 256 dimensions and a vocabulary of 512: tiny-llama, tiny-qwen2, tiny-qwen3,
// tiny-qwen3moe, tiny-deepseek2, tiny-deepseek2-lite.
#ifndef TESTS_MODELGEN_PRESETS_H_
#define TESTS_MODELGEN_PRESETS_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/modelgen/model_plan.h"

namespace gguf_offload {

// Departures from a preset's shape. Heads keep their dimension.
struct PresetOverrides {
  std::optional<uint32_t> layers;
  std::optional<uint32_t> vocabulary;
  std::optional<uint32_t> dim;
  std::optional<uint32_t> feed_forward;
  std::optional<uint32_t> heads;
  std::optional<uint32_t> kv_heads;
  std::optional<uint32_t> experts;  // for presets with experts
};

// One preset: a shape and the function that turns a shape of its family into a plan.
struct Preset {
  std::string_view name;
  PresetShape shape;
  ModelPlan (*make_plan)(std::string_view name, const PresetShape& shape);
};

std::vector<Preset> LlamaPresets();
std::vector<Preset> QwenPresets();
std::vector<Preset> DeepSeekPresets();

// All of them.
std::vector<Preset> AllPresets();

absl::StatusOr<ModelPlan> MakeModelPlan(std::string_view preset, const PresetOverrides& overrides);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_PRESETS_H_
