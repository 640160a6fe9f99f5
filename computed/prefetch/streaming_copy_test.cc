#include "computed/prefetch/streaming_copy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace gguf_offload {
namespace {

TEST(StreamingCopyTest, CopiesAnySizeAtAnyAlignmentAndNothingElse) {
  std::vector<uint8_t> source(1000);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint8_t>(i * 7 % 251);
  for (size_t to = 0; to < 70; to += 3) {
    for (size_t from = 0; from < 20; from += 7) {
      for (const size_t bytes : {0, 1, 15, 16, 63, 64, 65, 127, 128, 200, 777}) {
        std::vector<uint8_t> destination(1000, 255);
        StreamingCopy(&destination[to], &source[from], bytes);
        std::vector<uint8_t> expected(1000, 255);
        std::memcpy(&expected[to], &source[from], bytes);
        ASSERT_EQ(destination, expected) << to << " " << from << " " << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace gguf_offload
