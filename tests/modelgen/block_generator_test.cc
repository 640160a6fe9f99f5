#include "tests/modelgen/block_generator.h"

#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/format.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

std::vector<TensorType> SupportedTypes() {
  std::vector<TensorType> types;
  for (uint32_t number = 0; number < 64; ++number) {
    const quant::Format* format = quant::FindFormat(number);
    if (format != nullptr && BlockGenerator::Supports(format->type)) types.push_back(format->type);
  }
  return types;
}

std::vector<uint8_t> Blocks(const BlockGenerator& generator, TensorType type, uint64_t first,
                            uint64_t blocks) {
  // A guard byte after the end shows writes beyond it.
  std::vector<uint8_t> bytes(blocks * quant::FormatOf(type).block_bytes + 1, 0xa5);
  generator.Generate(first, blocks, bytes.data());
  EXPECT_EQ(bytes.back(), 0xa5) << quant::FormatOf(type).name;
  bytes.pop_back();
  return bytes;
}

TEST(BlockGeneratorTest, SupportsAllWeightTypes) {
  EXPECT_EQ(SupportedTypes().size(), 28u);  // F32 and the 27 types with golden blocks
  EXPECT_FALSE(BlockGenerator::Supports(TensorType::kI32));
  EXPECT_FALSE(BlockGenerator::Supports(TensorType::kQ8_K));
}

class EveryTypeTest : public testing::TestWithParam<TensorType> {};

// Deviations of matrices from 64 columns to 18432 columns and a gain of a half, and of embeddings.
TEST_P(EveryTypeTest, ValuesHaveTheRightMeanAndDeviation) {
  const quant::Format& format = quant::FormatOf(GetParam());
  constexpr size_t kElements = 1 << 17;
  for (const double target : {1.0, 1 / 8.0, 1 / std::sqrt(896), 1 / 64.0, 0.5 / std::sqrt(18432)}) {
    const BlockGenerator generator(GetParam(), /*seed=*/7, /*mean=*/0, target);
    const std::vector<uint8_t> blocks =
        Blocks(generator, GetParam(), /*first=*/0, kElements / format.block_elements);
    std::vector<float> values(kElements);
    quant::Dequantize(GetParam(), blocks.data(), kElements, values.data());
    double sum = 0;
    double squares = 0;
    double largest = 0;
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value));
      sum += value;
      squares += double{value} * value;
      largest = std::max(largest, std::fabs(double{value}));
    }
    const double mean = sum / kElements;
    const double deviation = std::sqrt(squares / kElements - mean * mean);
    EXPECT_GT(deviation, target / 1.1) << "target " << target;
    EXPECT_LT(deviation, target * 1.1) << "target " << target;
    EXPECT_LT(std::fabs(mean), 0.03 * deviation) << "target " << target;
    EXPECT_LT(largest, 10 * deviation) << "target " << target;
  }
}

TEST_P(EveryTypeTest, PiecesAreTheSameAsTheWhole) {
  const BlockGenerator generator(GetParam(), /*seed=*/3, 0, 0.02);
  const std::vector<uint8_t> whole = Blocks(generator, GetParam(), 0, 101);
  std::vector<uint8_t> pieces;
  uint64_t first = 0;
  for (const uint64_t blocks : {1, 2, 3, 37, 58}) {
    const std::vector<uint8_t> piece = Blocks(generator, GetParam(), first, blocks);
    pieces.insert(pieces.end(), piece.begin(), piece.end());
    first += blocks;
  }
  EXPECT_EQ(pieces, whole);
}

TEST_P(EveryTypeTest, SeedsMakeOtherBlocksAndBlocksDiffer) {
  const std::vector<uint8_t> one =
      Blocks(BlockGenerator(GetParam(), 1, 0, 0.02), GetParam(), 0, 512);
  const std::vector<uint8_t> two =
      Blocks(BlockGenerator(GetParam(), 2, 0, 0.02), GetParam(), 0, 512);
  EXPECT_NE(one, two);
  const size_t block_bytes = quant::FormatOf(GetParam()).block_bytes;
  if (block_bytes < 16) return;  // single numbers do repeat
  std::set<std::string> distinct;
  for (size_t i = 0; i < one.size(); i += block_bytes) {
    distinct.emplace(reinterpret_cast<const char*>(&one[i]), block_bytes);
  }
  EXPECT_EQ(distinct.size(), 512u);
}

INSTANTIATE_TEST_SUITE_P(Types, EveryTypeTest, testing::ValuesIn(SupportedTypes()),
                         [](const auto& info) {
                           return std::string(quant::FormatOf(info.param).name);
                         });

TEST(BlockGeneratorTest, NormsHaveTheirMean) {
  const BlockGenerator generator(TensorType::kF32, 5, /*mean=*/1, /*deviation=*/0.1);
  const std::vector<uint8_t> bytes = Blocks(generator, TensorType::kF32, 0, 10000);
  double sum = 0;
  for (size_t i = 0; i < 10000; ++i) {
    float value;
    std::memcpy(&value, &bytes[4 * i], 4);
    EXPECT_GT(value, 0.7f);
    EXPECT_LT(value, 1.3f);
    sum += value;
  }
  EXPECT_NEAR(sum / 10000, 1, 0.01);
}

TEST(BlockGeneratorTest, CodesThatNoQuantizerWritesDoNotOccur) {
  const BlockGenerator ternary(TensorType::kTQ2_0, 1, 0, 0.02);
  const std::vector<uint8_t> codes = Blocks(ternary, TensorType::kTQ2_0, 0, 100);
  for (size_t i = 0; i < codes.size(); ++i) {
    if (i % 66 >= 64) continue;  // d
    EXPECT_EQ(codes[i] & codes[i] >> 1 & 0x55, 0) << i;
  }
  const BlockGenerator small(TensorType::kQ2_0, 1, 0, 0.02);
  const std::vector<uint8_t> small_codes = Blocks(small, TensorType::kQ2_0, 0, 100);
  for (size_t i = 0; i < small_codes.size(); ++i) {
    if (i % 18 < 2) continue;  // d
    EXPECT_EQ(small_codes[i] & small_codes[i] >> 1 & 0x55, 0) << i;
  }
  const BlockGenerator bytes(TensorType::kQ8_0, 1, 0, 0.02);
  const std::vector<uint8_t> blocks = Blocks(bytes, TensorType::kQ8_0, 0, 1000);
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 34 < 2) continue;  // d
    EXPECT_NE(blocks[i], 0x80) << i;
  }
}

TEST(TensorSeedTest, DependsOnSeedAndName) {
  const std::set<uint64_t> seeds = {
      TensorSeed(1, "blk.0.attn_q.weight"), TensorSeed(2, "blk.0.attn_q.weight"),
      TensorSeed(1, "blk.1.attn_q.weight"), TensorSeed(1, "blk.0.attn_k.weight")};
  EXPECT_EQ(seeds.size(), 4u);
}

}  // namespace
}  // namespace gguf_offload
