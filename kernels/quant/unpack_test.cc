#include "kernels/quant/simd_targets.h"
// After simd_targets.
#include "kernels/quant/unpack.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cmath>

#include "kernels/quant/golden_blocks.h"

namespace gguf_offload::quant {
namespace {

class UnpackTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { Choose(GetParam()); }
  void TearDown() override { Choose(0); }

 private:
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

// Three rows with a stride of five blocks, unpacked two blocks wide to padded arrays.
TEST_P(UnpackTest, RowsWithStrides) {
  int quantized = 0;
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    const Unpacker* unpacker = FindUnpacker(golden.type());
    if (golden.block_elements == 1) {
      EXPECT_EQ(unpacker, nullptr) << golden.name;
      continue;
    }
    ++quantized;
    ASSERT_NE(unpacker, nullptr) << golden.name;
    const size_t elements = 2 * golden.block_elements;
    const size_t groups = elements / unpacker->group_elements;
    const size_t u_stride = elements + 7;
    const size_t group_stride = groups + 3;
    std::vector<uint8_t> u(3 * u_stride, 201);
    std::vector<float> scale(3 * group_stride, -77.0f), offset(3 * group_stride, -77.0f);
    unpacker->rows(golden.blocks.data(), 5 * golden.block_bytes, 3, elements,
                   {u.data(), u_stride, scale.data(), offset.data(), group_stride});
    for (size_t row = 0; row < 3; ++row) {
      for (size_t i = 0; i < elements; ++i) {
        const size_t group = row * group_stride + i / unpacker->group_elements;
        const float expected = golden.values[row * 5 * golden.block_elements + i];
        float value = scale[group] * static_cast<float>(u[row * u_stride + i] - unpacker->bias);
        if (unpacker->has_offset) value += offset[group];
        ASSERT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected)))
            << golden.name << " row " << row << " element " << i;
      }
      for (size_t i = elements; i < u_stride; ++i) EXPECT_EQ(u[row * u_stride + i], 201);
      for (size_t i = groups; i < group_stride; ++i) {
        EXPECT_EQ(scale[row * group_stride + i], -77.0f) << golden.name;
        EXPECT_EQ(offset[row * group_stride + i], -77.0f) << golden.name;
      }
    }
    if (!unpacker->has_offset) {
      for (float value : offset) EXPECT_EQ(value, -77.0f) << golden.name;
    }
  }
  EXPECT_EQ(quantized, 25);
}

// A tile of every number of rows is the transposition of the same rows, and its dot products are
// theirs.
TEST_P(UnpackTest, TilesAndDotProductsAgreeWithRows) {
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    const Unpacker* unpacker = FindUnpacker(golden.type());
    if (unpacker == nullptr) continue;
    for (int rows = 1; rows <= kTileRows; ++rows) {
      const size_t blocks = golden.block_elements == 256 ? 1 : 2;
      const size_t elements = blocks * golden.block_elements;
      const size_t groups = elements / unpacker->group_elements;
      const size_t row_bytes = (blocks + 1) * golden.block_bytes;
      // As long as the last row's blocks, so that a memory checker sees any read beyond.
      const std::vector<uint8_t> bytes(
          golden.blocks.begin(), golden.blocks.begin() + rows * row_bytes - golden.block_bytes);
      std::vector<uint8_t> u(rows * elements);
      std::vector<float> scale(rows * groups), offset(rows * groups);
      unpacker->rows(bytes.data(), row_bytes, rows, elements,
                     {u.data(), elements, scale.data(), offset.data(), groups});
      alignas(64) uint8_t tile_u[kMaxBlockElements * kTileRows];
      alignas(64) float tile_scale[16 * kTileRows], tile_offset[16 * kTileRows];
      const TileBlocks tile = {bytes.data(), row_bytes, rows, elements, nullptr, 0};
      unpacker->tile(tile, {tile_u, tile_scale, tile_offset});
      for (int row = 0; row < rows; ++row) {
        for (size_t i = 0; i < elements; ++i) {
          ASSERT_EQ(tile_u[i / 4 * 64 + row * 4 + i % 4], u[row * elements + i]) << golden.name;
        }
        for (size_t group = 0; group < groups; ++group) {
          ASSERT_EQ(tile_scale[group * 16 + row], scale[row * groups + group]) << golden.name;
          if (!unpacker->has_offset) continue;
          ASSERT_EQ(tile_offset[group * 16 + row], offset[row * groups + group]) << golden.name;
        }
      }
      if (unpacker->dot == nullptr) continue;
      std::vector<int8_t> activations(elements);
      for (size_t i = 0; i < elements; ++i) activations[i] = static_cast<int8_t>(37 * i);
      alignas(64) int32_t sums[16 * kTileRows];
      unpacker->dot(tile, activations.data(), {sums, tile_scale, tile_offset});
      for (int row = 0; row < rows; ++row) {
        for (size_t group = 0; group < groups; ++group) {
          int32_t sum = 0;
          for (int i = 0; i < unpacker->group_elements; ++i) {
            const size_t place = group * unpacker->group_elements + i;
            sum += u[row * elements + place] * activations[place];
          }
          ASSERT_EQ(sums[group * 16 + row], sum) << golden.name << " row " << row;
          ASSERT_EQ(tile_scale[group * 16 + row], scale[row * groups + group]) << golden.name;
        }
      }
    }
  }
}

TEST_P(UnpackTest, PlainNumbersHaveNone) {
  for (TensorType type : {TensorType::kF32, TensorType::kF64, TensorType::kI8, TensorType::kI64,
                          TensorType::kQ8_1, TensorType::kQ8_K}) {
    EXPECT_EQ(FindUnpacker(type), nullptr);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, UnpackTest,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace gguf_offload::quant
