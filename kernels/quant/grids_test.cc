#include "kernels/quant/grids.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace gguf_offload::quant {
namespace {

constexpr char kFolder[] = "tests/testdata/formats/grids/";

std::vector<char> ReadFile(const std::string& name) {
  std::ifstream file(kFolder + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Compares each byte of `grid` with to_byte(value) of the reference table `name`.
template <typename Grid, typename ToByte>
void ExpectGrid(const std::string& name, const Grid& grid, const ToByte& to_byte) {
  constexpr size_t kValues = sizeof(grid[0]);
  const std::vector<char> reference = ReadFile(name + ".i8");
  ASSERT_EQ(reference.size(), grid.size() * kValues) << name;
  for (size_t i = 0; i < reference.size(); ++i) {
    const int byte = (grid[i / kValues] >> (8 * (i % kValues))) & 255;
    ASSERT_EQ(byte, to_byte(static_cast<signed char>(reference[i]))) << name << " value " << i;
  }
}

TEST(GridsTest, AgreeWithTheReferenceTables) {
  const auto magnitude = [](int value) { return value; };
  ExpectGrid("IQ2_XXS", kGridIq2Xxs, magnitude);
  ExpectGrid("IQ2_XS", kGridIq2Xs, magnitude);
  ExpectGrid("IQ2_S", kGridIq2S, magnitude);
  ExpectGrid("IQ3_XXS", kGridIq3Xxs, magnitude);
  ExpectGrid("IQ3_S", kGridIq3S, magnitude);
  ExpectGrid("IQ1_S", kGridIq1S, [](int value) { return 8 * (value + 1); });
}

TEST(GridsTest, SevenStoredSigns) {
  const std::vector<char> reference = ReadFile("ksigns.u8");
  ASSERT_EQ(reference.size(), 128u);
  for (uint32_t stored = 0; stored < 128; ++stored) {
    EXPECT_EQ(SignsOfSevenBits(stored), static_cast<uint8_t>(reference[stored])) << stored;
  }
}

TEST(GridsTest, SignBytes) {
  for (int signs = 0; signs < 256; ++signs) {
    for (int bit = 0; bit < 8; ++bit) {
      EXPECT_EQ((kSignBytes[signs] >> (8 * bit)) & 255, (signs >> bit) & 1 ? 255u : 0u);
    }
  }
}

TEST(GridsTest, TablesOfSixteen) {
  const std::vector<char> text = ReadFile("index.json");
  const nlohmann::json index = nlohmann::json::parse(text.begin(), text.end());
  const std::vector<int> iq4_nl = index.at("kvalues_iq4nl");
  const std::vector<int> fp4 = index.at("kvalues_mxfp4_doubled");
  ASSERT_EQ(iq4_nl.size(), 16u);
  ASSERT_EQ(fp4.size(), 16u);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(kValuesIq4Nl[i] - 128, iq4_nl[i]);
    EXPECT_EQ(kValuesFp4[i] - 128, fp4[i]);
  }
}

}  // namespace
}  // namespace gguf_offload::quant
