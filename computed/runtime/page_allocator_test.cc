#include "computed/runtime/page_allocator.h"

#include <gtest/gtest.h>

#include <set>

namespace gguf_offload {
namespace {

TEST(PageAllocatorTest, GivesEachPageOnceAndAllOrNothing) {
  PageAllocator pages(10);
  const std::vector<int32_t> first = pages.Allocate(4), second = pages.Allocate(6);
  EXPECT_EQ(pages.free(), 0);
  std::set<int32_t> all(first.begin(), first.end());
  all.insert(second.begin(), second.end());
  EXPECT_EQ(all.size(), 10u);
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), 9);

  pages.Free(first);
  EXPECT_TRUE(pages.Allocate(5).empty());
  EXPECT_EQ(pages.free(), 4);
  EXPECT_EQ(pages.Allocate(4), first);
}

}  // namespace
}  // namespace gguf_offload
