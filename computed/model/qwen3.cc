// Qwen3 (arXiv:2505.09388), dense: no biases, q and k normalized head by head; RoPE on halves.
#include "computed/model/registry.h"
#include "computed/model/transformer.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen3(const v1::Manifest& manifest) {
  return Transformer::Create(
      manifest, {.attention = {.rope_style = RopeStyle::kNeox, .norm = QueryKeyNorm::kHeads}});
}

}  // namespace gguf_offload
