#include "computed/model/registry.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gguf_offload {
namespace {

struct Entry {
  const char* architecture;  // as in "general.architecture"
  absl::StatusOr<std::unique_ptr<Architecture>> (*create)(const v1::Manifest&);
};

// clang-format off
constexpr Entry kRegistry[] = {
    {"deepseek2", CreateDeepSeek2},
    {"glm4moe", CreateGlm4Moe},
    {"gpt-oss", CreateGptOss},
    {"llama", CreateLlama},
    {"minimax-m2", CreateMiniMaxM2},
    {"qwen2", CreateQwen2},
    {"qwen2moe", CreateQwen2Moe},
    {"qwen3", CreateQwen3},
    {"qwen3moe", CreateQwen3Moe},
};
// clang-format on

}  // namespace

std::vector<std::string> SupportedArchitectures() {
  std::vector<std::string> names;
  for (const Entry& entry : kRegistry) names.push_back(entry.architecture);
  return names;
}

absl::StatusOr<std::unique_ptr<Architecture>> CreateArchitecture(const v1::Manifest& manifest) {
  for (const Entry& entry : kRegistry) {
    if (manifest.architecture() == entry.architecture) return entry.create(manifest);
  }
  return absl::UnimplementedError(
      absl::StrCat("model '", manifest.name(), "': architecture '", manifest.architecture(),
                   "' is not supported (", absl::StrJoin(SupportedArchitectures(), ", "), " are)"));
}

}  // namespace gguf_offload
