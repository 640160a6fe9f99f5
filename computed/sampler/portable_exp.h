// The exponential function, bit for bit the same on every machine.
#ifndef COMPUTED_SAMPLER_PORTABLE_EXP_H_
#define COMPUTED_SAMPLER_PORTABLE_EXP_H_

#include <bit>
#include <cstdint>

namespace gguf_offload {

// e^x for x <= 0 with a relative error below 1e-14; 0 for x < -700 and for -infinity. x is not NaN.
// std::exp differs in the last bit from one C library to another, which now and then would change
// the token that a seed selects; here only additions and multiplications of IEEE 754 doubles are
// used, and the build forbids to fuse them.
inline double PortableExp(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  // ln 2 in two parts (fdlibm): the first has trailing zeros, so that its multiples are exact.
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double clamped = x < -700.0 ? -700.0 : x;
  const double shifted = clamped * kLog2E + kRound;
  const double k = shifted - kRound;
  const double r = (clamped - k * kLn2High) - k * kLn2Low;  // |r| <= ln(2) / 2
  // Taylor series up to r^13 / 13!.
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  // 2^k: the low bits of `shifted` are k, and k >= -1010 keeps the exponent in range.
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  const double result = p * std::bit_cast<double>(scale);
  return x < -700.0 ? 0.0 : result;
}

}  // namespace gguf_offload

#endif  // COMPUTED_SAMPLER_PORTABLE_EXP_H_
