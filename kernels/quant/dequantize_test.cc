#include "kernels/quant/simd_targets.h"
// After simd_targets.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/golden_blocks.h"

namespace gguf_offload::quant {
namespace {

// Runs every test once for each instruction set that this processor has.
class DequantizeTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { Choose(GetParam()); }
  void TearDown() override { Choose(0); }

 private:
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

bool SameNumber(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

TEST_P(DequantizeTest, EveryTypeExactly) {
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    std::vector<float> out(golden.values.size(), std::numeric_limits<float>::quiet_NaN());
    Dequantize(golden.type(), golden.blocks.data(), out.size(), out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_TRUE(SameNumber(out[i], golden.values[i]))
          << golden.name << " element " << i << ": " << out[i] << ", not " << golden.values[i];
    }
  }
}

TEST_P(DequantizeTest, AnyRunOfBlocksWithoutTouchingItsNeighbours) {
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    const size_t blocks = golden.blocks.size() / golden.block_bytes;
    for (size_t first : {size_t{0}, size_t{1}, blocks - 1}) {
      for (size_t count : {size_t{1}, size_t{3}, size_t{9}}) {
        if (count > blocks - first) continue;
        // An exact heap copy, so that a memory checker sees any read outside of the blocks.
        const size_t bytes = count * golden.block_bytes;
        const auto copy = std::make_unique<uint8_t[]>(bytes);
        memcpy(copy.get(), &golden.blocks[first * golden.block_bytes], bytes);
        const size_t elements = count * golden.block_elements;
        std::vector<float> out(elements + 1, -77.0f);
        Dequantize(golden.type(), copy.get(), elements, out.data());
        for (size_t i = 0; i < elements; ++i) {
          ASSERT_TRUE(SameNumber(out[i], golden.values[first * golden.block_elements + i]))
              << golden.name << " block " << first << " element " << i;
        }
        EXPECT_EQ(out[elements], -77.0f) << golden.name;
      }
    }
  }
}

TEST_P(DequantizeTest, NoElements) {
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    float out = -77.0f;
    Dequantize(golden.type(), golden.blocks.data(), 0, &out);
    EXPECT_EQ(out, -77.0f);
  }
}

// Hostile files may hold any bits: infinite scales must neither trap nor be undefined behaviour.
TEST_P(DequantizeTest, AnyBits) {
  std::mt19937 random(1);
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    std::vector<uint8_t> blocks(40 * golden.block_bytes);
    for (int fill : {-1, 0x00, 0x7c, 0xff}) {
      for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(fill < 0 ? random() : fill);
      std::vector<float> out(40 * golden.block_elements);
      Dequantize(golden.type(), blocks.data(), out.size(), out.data());
    }
  }
}

TEST_P(DequantizeTest, InfiniteAndNanScales) {
  uint8_t block[34] = {0x00, 0x7c};  // f16 infinity
  for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<uint8_t>(i - 16);
  float out[32];
  Dequantize(TensorType::kQ8_0, block, 32, out);
  EXPECT_EQ(out[0], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(out[16]));
  EXPECT_EQ(out[31], std::numeric_limits<float>::infinity());
  block[1] = 0x7e;  // f16 NaN
  Dequantize(TensorType::kQ8_0, block, 32, out);
  for (float value : out) EXPECT_TRUE(std::isnan(value));
}

// Nibbles of 1 mean 0.5, so an element is half its scale.
TEST_P(DequantizeTest, EveryE8M0Scale) {
  uint8_t block[17];
  std::fill(block, block + 17, 0x11);
  for (int bits = 0; bits < 256; ++bits) {
    block[0] = static_cast<uint8_t>(bits);
    float out[32];
    Dequantize(TensorType::kMXFP4, block, 32, out);
    EXPECT_EQ(out[0], std::ldexp(1.0, bits - 128)) << bits;
  }
}

TEST_P(DequantizeTest, EveryUnsignedE4M3Scale) {
  uint8_t block[36];
  std::fill(block, block + 36, 0x11);
  for (int bits = 0; bits < 256; ++bits) {
    block[1] = static_cast<uint8_t>(bits);
    float out[64];
    Dequantize(TensorType::kNVFP4, block, 64, out);
    const int exponent = (bits >> 3) & 15;
    const int mantissa = bits & 7;
    double value =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    if ((bits & 127) == 127) value = 0;
    EXPECT_EQ(out[16], value / 2) << bits;
  }
}

template <typename T>
void ExpectPlainNumbers(TensorType type, const std::vector<T>& numbers) {
  std::vector<float> out(numbers.size());
  Dequantize(type, numbers.data(), numbers.size(), out.data());
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(out[i], static_cast<float>(numbers[i])) << FormatOf(type).name << " " << i;
  }
}

TEST_P(DequantizeTest, PlainNumbers) {
  ExpectPlainNumbers<float>(TensorType::kF32, {0.0f, -1.5f, 1e38f});
  ExpectPlainNumbers<double>(TensorType::kF64, {0.0, -1.5, 1.0 / 3, 1e-50});
  ExpectPlainNumbers<int8_t>(TensorType::kI8, {0, 1, -1, 127, -128});
  ExpectPlainNumbers<int16_t>(TensorType::kI16, {0, 1, -1, 32767, -32768});
  ExpectPlainNumbers<int32_t>(TensorType::kI32, {0, 1, -1, 2147483647, -2147483647 - 1});
  ExpectPlainNumbers<int64_t>(TensorType::kI64, {0, 1, -1, 9223372036854775807});
}

INSTANTIATE_TEST_SUITE_P(Targets, DequantizeTest,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace gguf_offload::quant
