#include "weightd/gguf/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace gguf_offload::gguf {
namespace {

TEST(Utf8, AcceptsWellFormedText) {
  // The first and last code point of each length, and the neighbours of the surrogates.
  for (const char* text :
       {"", "a", "abcdefgh\xc3\xa9ijklmnop", "\x01\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
        "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << text;
  }
  EXPECT_TRUE(IsValidUtf8(std::string(3, '\0')));
}

TEST(Utf8, RefusesMalformedTextAtEveryPosition) {
  for (const std::string bad :
       {"\x80", "\xbf", "\xc0\xaf", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf", "\xe0\xa0",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xef\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff"}) {
    for (size_t before = 0; before < 10; ++before) {
      EXPECT_FALSE(IsValidUtf8(std::string(before, 'a') + bad)) << before;
      EXPECT_FALSE(IsValidUtf8(std::string(before, 'a') + bad + "aaaaaaaaaa")) << before;
    }
  }
}

TEST(Utf8, PrintableHasNoControlCharacters) {
  EXPECT_TRUE(IsPrintableUtf8("blk.0.attn_q.weight \xc3\xa9"));
  for (const std::string& bad : {std::string("a\nb"), std::string("\x1b[0m"), std::string("a\x7f"),
                                 std::string("a\0b", 3), std::string("\xff")}) {
    EXPECT_FALSE(IsPrintableUtf8(bad));
  }
}

}  // namespace
}  // namespace gguf_offload::gguf
