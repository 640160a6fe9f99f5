// Rotary position embedding on the GPU (see rope.h), together with what surrounds it in a layer:
// the norm of query and key heads before, and the store into the key-value cache behind.
#ifndef KERNELS_OPS_ROPE_CUDA_H_
#define KERNELS_OPS_ROPE_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention/kv_layer_cuda.h"
#include "kernels/ops/rope.h"

namespace gguf_offload::cuda {

// angles[row][pair] = {cos, sin}(positions[row] * radians[pair]) * magnitude, in double precision.
// Device memory.
void ComputeRopeAngles(const double* radians,  // (pairs)
                       float magnitude,
                       const int32_t* positions,  // (rows)
                       int rows, int pairs,
                       float2* angles,  // (rows, pairs)
                       cudaStream_t stream);

// Pointers are device memory, 8-byte aligned; strides are in elements and even, as are key_dim and
// value_dim. key_dim is at most 512.
struct RotateAndStore {
  float* q = nullptr;  // (rows, heads, key_dim), rows q_stride apart; in place
  int64_t q_stride = 0;
  const float* k = nullptr;  // (rows, layer.kv_heads, key_dim), rows k_stride apart
  int64_t k_stride = 0;
  const float* v = nullptr;  // (rows, layer.kv_heads, value_dim), rows v_stride apart
  int64_t v_stride = 0;
  int rows = 0;
  int heads = 0;
  KvLayer layer;

  bool normalize = false;         // q and k, each head on its own, before the rotation
  const float* q_norm = nullptr;  // (key_dim) or null: all ones
  const float* k_norm = nullptr;  // (key_dim) or null: all ones
  float eps = 0;

  RopeStyle style = RopeStyle::kNormal;
  int pairs = 0;                   // the first 2 * pairs elements of a head turn; 0: none
  const float2* angles = nullptr;  // (rows, pairs)

  // Row r goes to slot positions[r] % kPageTokens of page pages[row_pages[r] + positions[r] /
  // kPageTokens]. A row at a negative position is left as it is and not stored.
  const int32_t* positions = nullptr;  // (rows)
  const int32_t* row_pages = nullptr;  // (rows)
  const int32_t* pages = nullptr;
};

// q = rotated(normalized(q)); the cache gets rotated(normalized(k)) and v, rounded to float16.
void RotateAndStoreKv(const RotateAndStore& arguments, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_ROPE_CUDA_H_
