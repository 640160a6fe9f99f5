#include "kernels/ops/embed.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace gguf_offload {
namespace {

TEST(EmbedRowsTest, Float32) {
  const size_t vocab = 50, dim = 70;
  std::vector<float> table(vocab * dim);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i) * 0.25f;
  const std::vector<int32_t> ids = {49, 0, 7, 7};
  std::vector<float> out(ids.size() * dim, NAN);
  ThreadPool pool(2);
  EmbedRows(quant::TensorType::kF32, table.data(), ids.data(), ids.size(), dim, out.data(), pool);
  for (size_t row = 0; row < ids.size(); ++row) {
    for (size_t i = 0; i < dim; ++i) EXPECT_EQ(out[row * dim + i], table[ids[row] * dim + i]);
  }
}

// Q8_0: a float16 scale and 32 signed bytes a block.
TEST(EmbedRowsTest, Q8_0) {
  const size_t vocab = 300, blocks = 3, dim = 32 * blocks;
  std::vector<uint8_t> table(vocab * blocks * 34);
  for (size_t block = 0; block < vocab * blocks; ++block) {
    const uint16_t scale = 0x3800;  // 0.5
    std::memcpy(&table[block * 34], &scale, 2);
    for (size_t i = 0; i < 32; ++i) {
      table[block * 34 + 2 + i] =
          static_cast<uint8_t>(static_cast<int8_t>((block * 7 + i) % 255 - 127));
    }
  }
  std::vector<int32_t> ids;
  for (int i = 0; i < 400; ++i) ids.push_back(i * 13 % vocab);
  std::vector<float> out(ids.size() * dim, NAN);
  ThreadPool pool(3);
  EmbedRows(quant::TensorType::kQ8_0, table.data(), ids.data(), ids.size(), dim, out.data(), pool);
  for (size_t row = 0; row < ids.size(); ++row) {
    for (size_t i = 0; i < dim; ++i) {
      const int number = static_cast<int>((ids[row] * blocks + i / 32) * 7 + i % 32) % 255 - 127;
      ASSERT_EQ(out[row * dim + i], 0.5f * number) << row << " " << i;
    }
  }
}

}  // namespace
}  // namespace gguf_offload
