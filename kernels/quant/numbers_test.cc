#include "kernels/quant/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace gguf_offload::quant {
namespace {

TEST(NumbersTest, EveryHalf) {
  for (int bits = 0; bits < 65536; ++bits) {
    const int exponent = (bits >> 10) & 31;
    const int mantissa = bits & 1023;
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else if (exponent == 31) {
      EXPECT_EQ(value, sign * std::numeric_limits<double>::infinity());
    } else if (exponent == 0) {
      EXPECT_EQ(value, sign * std::ldexp(mantissa, -24)) << bits;
    } else {
      EXPECT_EQ(value, sign * std::ldexp(1024 + mantissa, exponent - 25)) << bits;
    }
    EXPECT_TRUE(std::isnan(value) || std::signbit(value) == (sign < 0)) << bits;
  }
}

TEST(NumbersTest, Bfloat16) {
  EXPECT_EQ(Bfloat16ToFloat(0x3f80), 1.0f);
  EXPECT_EQ(Bfloat16ToFloat(0xc040), -3.0f);
  EXPECT_EQ(Bfloat16ToFloat(0x0001), std::ldexp(1.0f, -133));
  EXPECT_EQ(Bfloat16ToFloat(0xff80), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(0x7fc0)));
}

}  // namespace
}  // namespace gguf_offload::quant
