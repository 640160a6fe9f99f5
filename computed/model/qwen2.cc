// Qwen2 and Qwen2.5 (arXiv:2407.10671, arXiv:2412.15115): biases on q, k and v; RoPE on halves.
#include "computed/model/dense_transformer.h"
#include "computed/model/registry.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateQwen2(const v1::Manifest& manifest) {
  return DenseTransformer::Create(manifest, {.rope_style = RopeStyle::kNeox, .qkv_bias = true});
}

}  // namespace gguf_offload
