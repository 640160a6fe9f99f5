#include "common/byte_size/byte_size.h"

#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

TEST(ByteSizeTest, Parses) {
  EXPECT_EQ(*ParseByteSize("0"), 0u);
  EXPECT_EQ(*ParseByteSize("900MiB"), 900u << 20);
  EXPECT_EQ(*ParseByteSize("6GiB"), 6ull << 30);
  EXPECT_EQ(*ParseByteSize("1.5GB"), 1'500'000'000u);
  for (const char* text : {"", "MiB", "-1", "6 Gib", "nan", "1e30"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
}

}  // namespace
}  // namespace gguf_offload
