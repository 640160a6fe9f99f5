// The architectures there are: a declaration here and a line in registry.cc each.
#ifndef COMPUTED_MODEL_REGISTRY_H_
#define COMPUTED_MODEL_REGISTRY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "computed/model/architecture.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateGlm4Moe(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateGptOss(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateDeepSeek2(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateLlama(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateMiniMaxM2(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2Moe(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3(const v1::Manifest& manifest);
absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3Moe(const v1::Manifest& manifest);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_REGISTRY_H_
