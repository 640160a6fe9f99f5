// One layer's paged keys and values in GPU memory, float16, laid out as kv_cache.h says.
#ifndef KERNELS_ATTENTION_KV_LAYER_CUDA_H_
#define KERNELS_ATTENTION_KV_LAYER_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// Positions of a page; the same as on the CPU.
inline constexpr int kPageTokens = 32;

// Does not own the memory, which must be aligned to 16 bytes.
struct KvLayer {
  __half* keys = nullptr;    // (pages, kv_heads, kPageTokens, key_dim)
  __half* values = nullptr;  // (pages, kv_heads, kPageTokens, value_dim)
  int kv_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_KV_LAYER_CUDA_H_
