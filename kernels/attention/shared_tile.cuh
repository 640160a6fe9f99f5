// Keys or values of some consecutive positions in shared memory, as tensor core operands.
//
// A row of kDims float16 a position, 16 bytes to a chunk; chunk c of position p lies in the place
// of chunk c ^ (p % 8), so that the 8 positions that ldmatrix reads at once are in different banks.
#ifndef KERNELS_ATTENTION_SHARED_TILE_CUH_
#define KERNELS_ATTENTION_SHARED_TILE_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention/attention_mma.cuh"
#include "kernels/attention/kv_layer_cuda.h"

namespace gguf_offload::cuda {

__device__ __forceinline__ void StoreChunk(uint32_t to_shared, uint4 chunk) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to_shared), "r"(chunk.x),
               "r"(chunk.y), "r"(chunk.z), "r"(chunk.w)
               : "memory");
}

// Copies 16 bytes to shared memory, or clears them, while the thread goes on where the GPU can do
// so.
__device__ __forceinline__ void CopyChunk(uint32_t to_shared, const void* from, bool copy) {
#if __CUDA_ARCH__ >= 800
  const int bytes = copy ? 16 : 0;  // the rest is cleared
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to_shared), "l"(from),
               "r"(bytes)
               : "memory");
#else
  uint4 chunk = make_uint4(0, 0, 0, 0);
  if (copy) chunk = __ldg(static_cast<const uint4*>(from));
  StoreChunk(to_shared, chunk);
#endif
}

// Waits for the thread's own copies.
__device__ __forceinline__ void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Begins to copy positions first_key + {0..kKeys - 1} (a multiple of kPageTokens) of a head to
// shared memory; those outside [begin, end) are cleared and their pages not looked up. `cache` is
// (pages, kv_heads, kPageTokens, dim).
template <int kDims, int kKeys, bool kExact>
__device__ __forceinline__ void CopyTile(uint32_t to_shared, const __half* cache,
                                         const int32_t* pages, int kv_heads, int kv_head, int dim,
                                         int first_key, int begin, int end) {
  constexpr int kChunks = kDims / 8;
  if (kExact) dim = kDims;
#pragma unroll 4
  for (int i = threadIdx.x; i < kKeys * kChunks; i += blockDim.x) {
    const int slot = i / kChunks, chunk = i % kChunks;
    const int key = first_key + slot;
    const bool visible = key >= begin && key < end;
    const uint32_t to = to_shared + (slot * kChunks + (chunk ^ slot % 8)) * 16;
    const __half* row = cache;
    if (visible) {
      const int64_t page = __ldg(pages + key / kPageTokens);
      row += ((page * kv_heads + kv_head) * kPageTokens + key % kPageTokens) * dim;
    }
    if (kExact || dim % 8 == 0) {
      const bool inside = kExact || chunk * 8 < dim;
      CopyChunk(to, inside ? row + chunk * 8 : row, visible && inside);
    } else {
      uint4 eight = make_uint4(0, 0, 0, 0);
      if (visible) eight = LoadEight<false>(row, chunk * 8, dim);
      StoreChunk(to, eight);
    }
  }
}

// Four matrices of 8 rows of 8 float16: lane 8 * m + r names row r of matrix m, lane 4 * g + t gets
// elements 2 * t and 2 * t + 1 of row g of each.
__device__ __forceinline__ uint4 LoadMatrices(uint32_t row_in_shared) {
  uint4 result;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result.x), "=r"(result.y), "=r"(result.z), "=r"(result.w)
               : "r"(row_in_shared)
               : "memory");
  return result;
}

// The same, but lane 4 * g + t gets elements g of rows 2 * t and 2 * t + 1.
__device__ __forceinline__ uint4 LoadTransposed(uint32_t row_in_shared) {
  uint4 result;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result.x), "=r"(result.y), "=r"(result.z), "=r"(result.w)
               : "r"(row_in_shared)
               : "memory");
  return result;
}

// Right operands of two products. As keys: columns are positions 16 * n + {0..7} (in .x and .y) and
// 16 * n + {8..15} (.z, .w), the summed index is dims 16 * k + {0..15}.
template <int kDims>
__device__ __forceinline__ uint4 KeyOperands(uint32_t tile, int n, int k) {
  const int lane = threadIdx.x % 32, r = lane % 8, matrix = lane / 8;
  const int slot = 16 * n + matrix / 2 * 8 + r;
  const int chunk = (2 * k + matrix % 2) ^ r;
  const uint32_t from = tile + (slot * (kDims / 8) + chunk) * 16;
  return LoadMatrices(from);
}

// As values: columns are dims 16 * n + {0..7} and 16 * n + {8..15}, the summed index is positions
// 16 * k + {0..15}.
template <int kDims>
__device__ __forceinline__ uint4 ValueOperands(uint32_t tile, int n, int k) {
  const int lane = threadIdx.x % 32, r = lane % 8, matrix = lane / 8;
  const int slot = 16 * k + matrix % 2 * 8 + r;
  const int chunk = (2 * n + matrix / 2) ^ r;
  const uint32_t from = tile + (slot * (kDims / 8) + chunk) * 16;
  return LoadTransposed(from);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_SHARED_TILE_CUH_
