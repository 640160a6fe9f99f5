// LLaMA (Touvron et al. 2023, arXiv:2302.13971) and its many descendants: Llama 2 and 3, Mistral,
// SmolLM. RoPE on neighbouring pairs; Llama 3.1 on adds frequency factors.
#include "computed/model/dense_transformer.h"
#include "computed/model/registry.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Architecture>> CreateLlama(const v1::Manifest& manifest) {
  return DenseTransformer::Create(manifest,
                                  {.rope_style = RopeStyle::kNormal, .frequency_factors = true});
}

}  // namespace gguf_offload
