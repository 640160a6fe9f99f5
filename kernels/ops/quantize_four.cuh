// QuantizeGroup (kernels/matmul/quantized_rows.cuh) for kernels whose threads hold four consecutive
// elements: eight lanes share a group of 32, and a warp writes four groups at once.
#ifndef KERNELS_OPS_QUANTIZE_FOUR_CUH_
#define KERNELS_OPS_QUANTIZE_FOUR_CUH_

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"

namespace gguf_offload::cuda {

__device__ __forceinline__ int QuantizeOne(float value, float inverse) {
  return max(-127, min(127, __float2int_rn(value * inverse)));
}

// A whole warp calls it. `values` are elements [4 * vector, 4 * vector + 4) of row `row`; `vector`
// of a lane is that of lane 0 plus the lane's number, and that of lane 0 a multiple of 8. Nothing
// is written for lanes that are not `valid`; the lanes of a group all are or none. The result is
// that of QuantizeGroup, bit by bit.
__device__ __forceinline__ void QuantizeFour(float4 values, bool valid, int64_t row, int64_t vector,
                                             const QuantizedRows& out) {
  // Magnitudes order like their bits, with NaN above all.
  uint32_t bits = max(max(__float_as_uint(fabsf(values.x)), __float_as_uint(fabsf(values.y))),
                      max(__float_as_uint(fabsf(values.z)), __float_as_uint(fabsf(values.w))));
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) {
    bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, distance));
  }
  const float largest = __uint_as_float(bits);
  const float scale = largest * (1.0f / 127.0f);
  const float inverse = largest >= 1e-35f ? 127.0f / largest : 0.0f;
  const int q0 = QuantizeOne(values.x, inverse), q1 = QuantizeOne(values.y, inverse);
  const int q2 = QuantizeOne(values.z, inverse), q3 = QuantizeOne(values.w, inverse);
  int sum = q0 + q1 + q2 + q3;
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (!valid) return;
  const uint32_t word =
      (q0 & 0xff) | (q1 & 0xff) << 8 | (q2 & 0xff) << 16 | static_cast<uint32_t>(q3 & 0xff) << 24;
  reinterpret_cast<uint32_t*>(out.q + row * out.columns)[vector] = word;
  if (vector % 8 == 0) {
    out.scale[row * (out.columns / 32) + vector / 8] = make_float2(scale, scale * sum);
  }
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_QUANTIZE_FOUR_CUH_
