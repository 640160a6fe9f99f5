// Rotary position embedding of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) on the
// GPU: a part of each query head and of the one key a row has, together with the store of that key
// into a cache whose values are in its keys.
#ifndef KERNELS_OPS_LATENT_ROPE_CUDA_H_
#define KERNELS_OPS_LATENT_ROPE_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention/kv_layer_cuda.h"
#include "kernels/ops/rope.h"

namespace gguf_offload::cuda {

// Pointers are device memory; strides are in elements.
struct RotateAndStoreLatent {
  const float* q = nullptr;  // (rows, heads, rope_dim), q_stride and q_head_stride apart
  int64_t q_stride = 0;
  int64_t q_head_stride = 0;
  float* rotated = nullptr;  // the same, with strides of its own
  int64_t rotated_stride = 0;
  int64_t rotated_head_stride = 0;
  const float* key = nullptr;  // (rows, layer.key_dim), rows key_stride apart
  int64_t key_stride = 0;
  int rows = 0;
  int heads = 0;
  int rope_dim = 0;  // of a query, and the last elements of a key
  KvLayer layer;     // of one head; values are not looked at

  RopeStyle style = RopeStyle::kNormal;
  int pairs = 0;                   // the first 2 * pairs of the rope_dim elements turn
  const float2* angles = nullptr;  // (rows, pairs)

  // Where rows go, as in rope_cuda.h; one at a negative position goes nowhere.
  const int32_t* positions = nullptr;  // (rows)
  const int32_t* row_pages = nullptr;  // (rows)
  const int32_t* pages = nullptr;
};

void RotateAndStoreLatentKv(const RotateAndStoreLatent& arguments, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_LATENT_ROPE_CUDA_H_
