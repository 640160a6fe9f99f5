// Rounds floats to the 16-bit formats of GGUF: IEEE half precision and bfloat16.
#ifndef TESTS_MODELGEN_HALF_H_
#define TESTS_MODELGEN_HALF_H_

#include <bit>
#include <cmath>
#include <cstdint>

namespace gguf_offload {

// The half-precision number nearest to `value`, subnormal ones included; |value| < 65504.
inline uint16_t ToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = fraction * 2^exponent, fraction in [0.5, 1)
  if (magnitude == 0 || exponent < -13) exponent = -13;
  // The 11 significant bits as an integer; the implicit one adds one to the exponent field.
  const auto bits = static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
  return sign | static_cast<uint16_t>(((exponent + 13) << 10) + bits);
}

// The bfloat16 number nearest to the finite `value`.
inline uint16_t ToBfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_HALF_H_
