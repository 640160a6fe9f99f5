// The pieces of both attention kernels: tensor core products, and numbers packed for them.
//
// Lane 4 * g + t of a warp holds of a product C (16, 8) += A (16, 16) B (16, 8), float16 times
// float16 in float32 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   A: a[0], a[2]: row g, columns {2t, 2t + 1} and {2t + 8, 2t + 9}; a[1], a[3]: row g + 8,
//   likewise B: b0, b1: column g, rows {2t, 2t + 1} and {2t + 8, 2t + 9} C: c[0], c[1]: row g,
//   columns {2t, 2t + 1}; c[2], c[3]: row g + 8, likewise
// The summed index may be permuted as one likes, if it is in A and B alike.
#ifndef KERNELS_ATTENTION_ATTENTION_MMA_CUH_
#define KERNELS_ATTENTION_ATTENTION_MMA_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

inline constexpr float kLog2E = 1.44269504088896340736f;

__device__ __forceinline__ float MinusInfinity() { return __int_as_float(0xff800000); }

// 2^x, relative error about 2^-22; 0 for minus infinity.
__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// `low` and `high` as float16, in the lower and upper half.
__device__ __forceinline__ uint32_t PackHalves(float low, float high) {
  const __half2 halves = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&halves);
}

// What PackHalves(low, high) rounds away, packed.
__device__ __forceinline__ uint32_t PackResidues(float low, float high) {
  const float2 rounded = __half22float2(__floats2half2_rn(low, high));
  return PackHalves(low - rounded.x, high - rounded.y);
}

__device__ __forceinline__ void MultiplyAdd(float (&c)[4], uint4 a, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.z), "r"(a.w), "r"(b1));
#endif
}

// The largest or the sum of `value` over the four lanes that share a row of C.
__device__ __forceinline__ float MaxOverRow(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ __forceinline__ float SumOverRow(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// Elements [from, from + 8) of a row of `dim` float16 in the cache, zeros beyond its end. `dim` is
// even; kExact: a multiple of 8, and `from` is inside.
template <bool kExact>
__device__ __forceinline__ uint4 LoadEight(const __half* row, int from, int dim) {
  if (kExact) return __ldg(reinterpret_cast<const uint4*>(row + from));
  uint4 result = make_uint4(0, 0, 0, 0);
  if (dim % 8 == 0) {
    if (from < dim) result = __ldg(reinterpret_cast<const uint4*>(row + from));
    return result;
  }
  const unsigned int* words = reinterpret_cast<const unsigned int*>(row + from);
  if (from < dim) result.x = __ldg(words);
  if (from + 2 < dim) result.y = __ldg(words + 1);
  if (from + 4 < dim) result.z = __ldg(words + 2);
  if (from + 6 < dim) result.w = __ldg(words + 3);
  return result;
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_ATTENTION_MMA_CUH_
