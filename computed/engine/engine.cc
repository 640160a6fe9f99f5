#include "computed/engine/engine.h"

#include <algorithm>

namespace gguf_offload {

int ChooseContext(const TransformerShape& shape, int asked) {
  constexpr int64_t kDefaultContext = 4096;
  if (asked != 0) return asked;
  return static_cast<int>(std::min(shape.context, kDefaultContext));
}

KvShape KvShapeOf(const TransformerShape& shape) {
  return {.layers = shape.layers,
          .kv_heads = shape.kv_heads,
          .key_dim = shape.key_dim,
          .value_dim = shape.value_dim,
          .values_in_keys = shape.has_latent_attention()};
}

}  // namespace gguf_offload
