#include "weightd/store/shard_names.h"

#include <gtest/gtest.h>

namespace gguf_offload::store {
namespace {

TEST(ShardNames, TakesNamesApart) {
  const auto shard = ParseShardName("/models/llama-00002-of-00013.gguf");
  ASSERT_TRUE(shard.has_value());
  EXPECT_EQ(shard->prefix, "/models/llama");
  EXPECT_EQ(shard->number, 2u);
  EXPECT_EQ(shard->count, 13u);
  EXPECT_EQ(shard->Sibling(1), "/models/llama-00001-of-00013.gguf");
  EXPECT_EQ(shard->Sibling(13), "/models/llama-00013-of-00013.gguf");
  EXPECT_TRUE(ParseShardName("a-00001-of-00001.gguf").has_value());
  const auto capitals = ParseShardName("M-00001-of-00002.GGUF");
  ASSERT_TRUE(capitals.has_value());
  EXPECT_EQ(capitals->Sibling(2), "M-00002-of-00002.GGUF");
}

TEST(ShardNames, RefusesOtherNames) {
  for (const char* name :
       {"", "a.gguf", "-00001-of-00002.gguf", "/m/-00001-of-00002.gguf", "a-00000-of-00002.gguf",
        "a-00003-of-00002.gguf", "a-00000-of-00000.gguf", "a-0001-of-0002.gguf",
        "a-000001-of-000002.gguf", "a-+0001-of-00002.gguf", "a-00001-of- 0002.gguf",
        "a-00001-of-00002.gguf.part", "a-00001-of-00002.gguf/b", "a-00001_of-00002.gguf",
        "a-0x001-of-0x002.gguf"}) {
    EXPECT_FALSE(ParseShardName(name).has_value()) << name;
  }
}

TEST(ShardNames, ModelNames) {
  EXPECT_EQ(ModelNameOf("/models/llama-00001-of-00013.gguf"), "llama");
  EXPECT_EQ(ModelNameOf("/models/llama.gguf"), "llama");
  EXPECT_EQ(ModelNameOf("llama.v2.gguf"), "llama.v2");
  EXPECT_EQ(ModelNameOf("llama"), "llama");
  EXPECT_EQ(ModelNameOf("/m/X.GGUF"), "X");
  EXPECT_EQ(ModelNameOf("/m/X-00001-of-00002.Gguf"), "X");
}

}  // namespace
}  // namespace gguf_offload::store
