#include "kernels/quant/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/tile_kernels.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/matmul/float_tile-inl.h"
#include "kernels/matmul/integer_tile-inl.h"
#include "kernels/matmul/tile_kernels.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {

// Quantizes 32 numbers; returns their scale, which is not finite if any of them is not.
HWY_INLINE float QuantizeGroup(const float* HWY_RESTRICT x, int8_t* HWY_RESTRICT values) {
  // Compared as integers, magnitudes are in order and NaN is above all.
  uint32_t largest_bits = 0;
  for (int i = 0; i < 32; ++i) {
    largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  }
  const float largest = std::bit_cast<float>(largest_bits);
  // Below, 127 / largest would overflow; above are infinity and NaN.
  const bool usable = largest > 1e-36f && largest <= std::numeric_limits<float>::max();
  const float inverse = usable ? 127.0f / largest : 0.0f;
  // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
  constexpr float kRound = 12582912.0f;
  for (int i = 0; i < 32; ++i) {
    values[i] = static_cast<int8_t>(std::bit_cast<uint32_t>(x[i] * inverse + kRound) & 255);
  }
  return largest / 127.0f;
}

void QuantizePanel(const float* x, int64_t x_stride, int tokens, size_t cols, int8_t* values,
                   float* scales, int32_t* sums) {
  for (int token = 0; token < tokens; ++token) {
    for (size_t group = 0; group < cols / 32; ++group) {
      const size_t place = group * tokens + token;
      scales[place] = QuantizeGroup(x + token * x_stride + 32 * group, values + 32 * place);
    }
  }
  for (size_t group = 0; group < cols / 32; ++group) {
    for (int token = 0; token < tokens; ++token) {
      const int8_t* of_token = values + 32 * (group * tokens + token);
      for (size_t half = 0; half < 2; ++half) {
        int32_t sum = 0;
        for (size_t i = 0; i < 16; ++i) sum += of_token[16 * half + i];
        sums[(2 * group + half) * tokens + token] = sum;
      }
    }
  }
}

const TileKernels& Kernels() {
  static constexpr TileKernels kKernels = {&QuantizePanel, &MultiplyIntegerTile,
                                           &MultiplyFloatTile};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
GGUF_OFFLOAD_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(Kernels);

const TileKernels& FindTileKernels() { return HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace gguf_offload
#endif  // HWY_ONCE
