#include "kernels/quant/decode_group.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/golden_blocks.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

template <TensorType type>
struct TypeConstant {
  static constexpr TensorType kType = type;
};

template <typename T>
class DecodeGroupTest : public testing::Test {
 protected:
  using Decoder = GroupDecoder<T::kType>;

  // All values of `blocks`; each block is decoded at `misalignment` bytes behind an aligned
  // address, in an exact heap copy, so that a memory checker sees any read outside of it.
  static std::vector<float> Decode(const std::vector<uint8_t>& blocks, size_t misalignment) {
    std::vector<float> values;
    for (size_t at = 0; at < blocks.size(); at += Decoder::kBlockBytes) {
      const auto copy = std::make_unique<uint8_t[]>(misalignment + Decoder::kBlockBytes);
      memcpy(copy.get() + misalignment, &blocks[at], Decoder::kBlockBytes);
      for (int group = 0; group < Decoder::kBlockElements / 32; ++group) {
        Group32 out;
        memset(&out, 0xee, sizeof(out));
        Decoder::Decode(copy.get() + misalignment, group, out);
        CheckScales(out);
        for (int i = 0; i < 32; ++i) {
          // A separate statement each: the compiler must not fuse them.
          volatile float product = out.scale[i / 16] * NumberOf<Decoder>(out, i);
          values.push_back(Decoder::kHasOffset ? product + out.offset[i / 16]
                                               : static_cast<float>(product));
        }
      }
    }
    return values;
  }

 private:
  static void CheckScales(const Group32& out) {
    if (!Decoder::kHasOffset) {
      EXPECT_EQ(out.offset[0], 0);
      EXPECT_EQ(out.offset[1], 0);
    }
    if (!Decoder::kTwoScales) {
      EXPECT_EQ(memcmp(&out.scale[0], &out.scale[1], sizeof(float)), 0);
      EXPECT_EQ(memcmp(&out.offset[0], &out.offset[1], sizeof(float)), 0);
    }
  }
};

using QuantizedTypes =
    testing::Types<TypeConstant<TensorType::kQ4_0>, TypeConstant<TensorType::kQ4_1>,
                   TypeConstant<TensorType::kQ5_0>, TypeConstant<TensorType::kQ5_1>,
                   TypeConstant<TensorType::kQ8_0>, TypeConstant<TensorType::kQ2_K>,
                   TypeConstant<TensorType::kQ3_K>, TypeConstant<TensorType::kQ4_K>,
                   TypeConstant<TensorType::kQ5_K>, TypeConstant<TensorType::kQ6_K>,
                   TypeConstant<TensorType::kIQ2_XXS>, TypeConstant<TensorType::kIQ2_XS>,
                   TypeConstant<TensorType::kIQ2_S>, TypeConstant<TensorType::kIQ3_XXS>,
                   TypeConstant<TensorType::kIQ3_S>, TypeConstant<TensorType::kIQ1_S>,
                   TypeConstant<TensorType::kIQ1_M>, TypeConstant<TensorType::kIQ4_NL>,
                   TypeConstant<TensorType::kIQ4_XS>, TypeConstant<TensorType::kTQ1_0>,
                   TypeConstant<TensorType::kTQ2_0>, TypeConstant<TensorType::kMXFP4>,
                   TypeConstant<TensorType::kNVFP4>, TypeConstant<TensorType::kQ1_0>,
                   TypeConstant<TensorType::kQ2_0>>;

class TypeNames {
 public:
  template <typename T>
  static std::string GetName(int) {
    return std::string(quant::FormatOf(T::kType).name);
  }
};

TYPED_TEST_SUITE(DecodeGroupTest, QuantizedTypes, TypeNames);

bool SameNumber(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

TYPED_TEST(DecodeGroupTest, FormatIsThatOfTheTable) {
  using Decoder = GroupDecoder<TypeParam::kType>;
  const quant::Format& format = quant::FormatOf(TypeParam::kType);
  EXPECT_EQ(format.block_elements, static_cast<uint32_t>(Decoder::kBlockElements));
  EXPECT_EQ(format.block_bytes, static_cast<uint32_t>(Decoder::kBlockBytes));
  EXPECT_EQ(Decoder::kBlockBytes % Decoder::kAlignment, 0);
}

TYPED_TEST(DecodeGroupTest, GoldenValuesExactly) {
  bool found = false;
  for (const quant::GoldenBlocks& golden : quant::AllGoldenBlocks()) {
    if (golden.type() != TypeParam::kType) continue;
    found = true;
    const size_t alignment = GroupDecoder<TypeParam::kType>::kAlignment;
    for (size_t misalignment : {size_t{0}, alignment, 3 * alignment}) {
      const std::vector<float> values = this->Decode(golden.blocks, misalignment);
      ASSERT_EQ(values.size(), golden.values.size());
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_TRUE(SameNumber(values[i], golden.values[i]))
            << "element " << i << ": " << values[i] << ", not " << golden.values[i];
      }
    }
  }
  EXPECT_TRUE(found);
}

// Every bit pattern has the meaning that the CPU's decoder gives it, infinite scales included.
TYPED_TEST(DecodeGroupTest, RandomBytesAsTheCpu) {
  std::mt19937 random(static_cast<uint32_t>(TypeParam::kType) + 1);
  constexpr size_t kBlocks = 500;
  std::vector<uint8_t> blocks(kBlocks * GroupDecoder<TypeParam::kType>::kBlockBytes);
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
  std::vector<float> expected(kBlocks * GroupDecoder<TypeParam::kType>::kBlockElements);
  quant::Dequantize(TypeParam::kType, blocks.data(), expected.size(), expected.data());
  const std::vector<float> values = this->Decode(blocks, 0);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(SameNumber(values[i], expected[i]))
        << "element " << i << ": " << values[i] << ", not " << expected[i];
  }
}

TEST(Group32Test, SubtractionNeverBorrows) {
  for (uint32_t byte = 0; byte < 128; ++byte) {
    EXPECT_EQ(SubtractFromBytes<32>(Repeat4(byte)), Repeat4((byte - 32) & 255)) << byte;
  }
  EXPECT_EQ(SubtractFromBytes<8>(0x0f00080fu), 0x07f80007u);
}

TEST(Group32Test, NegationNeverCarries) {
  for (uint32_t byte = 1; byte < 128; ++byte) {
    const uint32_t negative = (256 - byte) & 255;
    EXPECT_EQ(NegateBytes(Repeat4(byte), 0x00ff00ffu),
              (byte << 24) | (negative << 16) | (byte << 8) | negative);
  }
}

TEST(Group32Test, EveryBitReachesItsTop) {
  for (int bit = 0; bit < 32; ++bit) {
    for (int nibble = 0; nibble < 8; ++nibble) {
      const uint32_t expected = bit / 4 == nibble ? 0x80u << (8 * (bit % 4)) : 0;
      EXPECT_EQ(BitsToTopBits(1u << bit, nibble) & 0x80808080u, expected);
      EXPECT_EQ(BitsToTopBits(~(1u << bit), nibble) & 0x80808080u, expected ^ 0x80808080u);
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
