#include "weightd/service/page_token.h"

#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

TEST(PageToken, RoundTrip) {
  const auto next = ReadPageToken(MakePageToken(0xfedcba9876543210, 17), 0xfedcba9876543210, 18);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(*next, 17u);
  EXPECT_EQ(*ReadPageToken("", 5, 18), 0u);
}

TEST(PageToken, AnotherGenerationIsRefused) {
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadPageToken(MakePageToken(1, 17), 2, 18).status()));
}

TEST(PageToken, ForgedTokensAreRefused) {
  for (const std::string& token :
       {std::string("x"), std::string("17"), MakePageToken(1, 18), MakePageToken(1, UINT64_MAX),
        MakePageToken(1, 0), MakePageToken(1, 5) + "0", "-" + MakePageToken(1, 5).substr(1),
        std::string(33, '-'), std::string("000000000000000g-0000000000000005"),
        std::string("0000000000000001-+000000000000005"), std::string(1000, '0')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ReadPageToken(token, 1, 18).status())) << token;
  }
}

}  // namespace
}  // namespace gguf_offload
