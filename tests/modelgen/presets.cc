#include "tests/modelgen/presets.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

absl::Status Check(const PresetShape& shape) {
  if (shape.layers == 0 || shape.layers > 1000 || shape.dim == 0 || shape.feed_forward == 0 ||
      shape.heads == 0 || shape.kv_heads == 0) {
    return absl::InvalidArgumentError("every size must be positive, layers at most a thousand");
  }
  if (shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(shape.heads, " heads cannot share ",
                                                   shape.kv_heads, " key/value heads evenly"));
  }
  if (shape.experts < shape.experts_used) {
    return absl::InvalidArgumentError(
        absl::StrCat(shape.experts, " experts are fewer than the ", shape.experts_used, " used"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Preset> AllPresets() {
  std::vector<Preset> all;
  for (const auto& family : {QwenPresets(), LlamaPresets(), DeepSeekPresets()}) {
    all.insert(all.end(), family.begin(), family.end());
  }
  return all;
}

absl::StatusOr<ModelPlan> MakeModelPlan(std::string_view name, const PresetOverrides& overrides) {
  std::string known;
  for (const Preset& preset : AllPresets()) {
    known += std::string(known.empty() ? "" : ", ") + std::string(preset.name);
    if (preset.name != name) continue;
    PresetShape shape = preset.shape;
    shape.layers = overrides.layers.value_or(shape.layers);
    shape.vocabulary = overrides.vocabulary.value_or(shape.vocabulary);
    shape.dim = overrides.dim.value_or(shape.dim);
    shape.feed_forward = overrides.feed_forward.value_or(shape.feed_forward);
    shape.heads = overrides.heads.value_or(shape.heads);
    shape.kv_heads = overrides.kv_heads.value_or(shape.kv_heads);
    if (shape.experts != 0) shape.experts = overrides.experts.value_or(shape.experts);
    if (absl::Status status = Check(shape); !status.ok()) return status;
    return preset.make_plan(preset.name, shape);
  }
  return absl::NotFoundError(absl::StrCat("no preset ", std::string(name), "; there are ", known));
}

}  // namespace gguf_offload
