#include "computed/model/registry.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gguf_offload {
namespace {

struct Entry {
  const char* architecture;  // as in "general.architecture"
  absl::StatusOr<std::unique_ptr<Architecture>> (*create)(const v1::Manifest&);
};

constexpr Entry kRegistry[] = {
    {"llama", CreateLlama},
    {"qwen2", CreateQwen2},
    {"qwen3", CreateQwen3},
};

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
