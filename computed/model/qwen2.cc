// Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115): biases on q, k and v; RoPE on halves.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2(const v1::Manifest& manifest) {
  return Transformer::Create(manifest, {.attention = {.rope_style = RopeStyle::kNeox}});
}

}  // namespace gguf_offload
