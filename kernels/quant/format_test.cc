#include "kernels/quant/format.h"

#include <gtest/gtest.h>

#include "kernels/quant/golden_blocks.h"

namespace gguf_offload::quant {
namespace {

TEST(FormatTest, AgreesWithOtherPrograms) {
  ASSERT_EQ(AllGoldenBlocks().size(), 27u);
  for (const GoldenBlocks& golden : AllGoldenBlocks()) {
    const Format* format = FindFormat(golden.type_number);
    ASSERT_NE(format, nullptr) << golden.name;
    EXPECT_EQ(format->name, golden.name);
    EXPECT_EQ(format->block_elements, golden.block_elements) << golden.name;
    EXPECT_EQ(format->block_bytes, golden.block_bytes) << golden.name;
    EXPECT_TRUE(format->dequantizable) << golden.name;
    EXPECT_EQ(FindFormatByName(golden.name), format);
    EXPECT_EQ(&FormatOf(golden.type()), format);
    EXPECT_EQ(RowBytes(*format, golden.values.size()), golden.blocks.size()) << golden.name;
  }
}

TEST(FormatTest, UnknownAndRetiredNumbersAreNotFound) {
  for (uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 142u, 1000u, 0xffffffffu}) {
    EXPECT_EQ(FindFormat(type), nullptr) << type;
  }
  EXPECT_EQ(FindFormatByName("q4_k"), nullptr);
  EXPECT_EQ(FindFormatByName(""), nullptr);
}

TEST(FormatTest, ActivationLayoutsHaveNoMeaningAsWeights) {
  EXPECT_FALSE(FormatOf(TensorType::kQ8_1).dequantizable);
  EXPECT_FALSE(FormatOf(TensorType::kQ8_K).dequantizable);
}

}  // namespace
}  // namespace gguf_offload::quant
