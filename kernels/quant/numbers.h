// The 16-bit floating-point formats, one number at a time, exact.
#ifndef KERNELS_QUANT_NUMBERS_H_
#define KERNELS_QUANT_NUMBERS_H_

#include <bit>
#include <cstdint>

namespace gguf_offload::quant {

// IEEE 754 binary16; NaN stays NaN.
constexpr float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  if (magnitude >= 0x7c00u << 13) {  // infinity or NaN
    return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x007fffff));
  }
  if (magnitude < 0x0400u << 13) {  // subnormal: an integer multiple of 2^-24
    const float value = static_cast<float>(half & 0x03ff) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  return std::bit_cast<float>(sign | (magnitude + (112u << 23)));
}

constexpr float Bfloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_NUMBERS_H_
