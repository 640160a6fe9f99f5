#include "computed/tokenizer/text_stream.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "computed/tokenizer/testing/manifests.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

// One token a byte, and 256 "<|im_end|>".
const Tokenizer& ByteTokenizer() {
  static const Tokenizer& tokenizer =
      *Tokenizer::Create(BpeManifest("qwen2", {{"<|im_end|>", 3}}, {}))->release();
  return tokenizer;
}

// Pushes `text` byte by byte, checks every output, and returns all of it.
std::string Stream(TextStream* stream, const std::string& text) {
  std::string output;
  for (char byte : text) {
    const std::string released = stream->Push(static_cast<uint8_t>(byte));
    EXPECT_TRUE(IsValidUtf8(released));
    output += released;
  }
  const std::string released = stream->Flush();
  EXPECT_TRUE(IsValidUtf8(released));
  return output + released;
}

std::string Stream(const std::string& text, const std::vector<std::string>& stops = {}) {
  TextStream stream(&ByteTokenizer(), {.stop_strings = stops});
  return Stream(&stream, text);
}

TEST(TextStreamTest, HoldsBackIncompleteCharacters) {
  const std::string text = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x99\x82z";
  TextStream stream(&ByteTokenizer(), {});
  const std::vector<std::string> expected = {
      "a", "", "\xC3\xA9", "", "", "\xE4\xB8\xAD", "", "", "", "\xF0\x9F\x99\x82", "z"};
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_EQ(stream.Push(static_cast<uint8_t>(text[i])), expected[i]) << i;
  }
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, EverySplitGivesTheSameText) {
  const std::string fffd = "\xEF\xBF\xBD";
  // Left: bytes. Right: the text by the rule of maximal subparts (Unicode 15.0, table 3-8 and on).
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"x\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x99\x82y", "x\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x99\x82y"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
       "A",
       fffd + fffd + fffd + fffd + fffd + fffd + fffd + fffd + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
       "A",
       fffd + fffd + fffd + fffd + fffd + fffd + fffd + fffd + "A"},
      {"\xF4\x91\x92\x93\xFF"
       "A\x80\xBF"
       "B",
       fffd + fffd + fffd + fffd + fffd + "A" + fffd + fffd + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       fffd + fffd + fffd + fffd + "A"},
      {"\xE4\xB8", fffd},
      {"\xF0\x9F\x99", fffd},
      {"\xC3\xC3\xA9", fffd + "\xC3\xA9"},
  };
  for (const auto& [bytes, text] : cases) {
    for (uint32_t cuts = 0; cuts < (1u << (bytes.size() - 1)); ++cuts) {
      Utf8Stream stream;
      std::string output;
      std::string piece;
      for (size_t i = 0; i < bytes.size(); ++i) {
        piece.push_back(bytes[i]);
        if (i + 1 < bytes.size() && !(cuts >> i & 1)) continue;
        const std::string released = stream.Push(piece);
        EXPECT_TRUE(IsValidUtf8(released));
        output += released;
        piece.clear();
      }
      output += stream.Flush();
      ASSERT_EQ(output, text) << cuts;
    }
  }
}

TEST(TextStreamTest, HoldsBackWhatMayBecomeAStopString) {
  TextStream stream(&ByteTokenizer(), {.stop_strings = {"STOP", "\n\n"}});
  EXPECT_EQ(stream.Push('a'), "a");
  EXPECT_EQ(stream.Push('S'), "");
  EXPECT_EQ(stream.Push('T'), "");
  EXPECT_EQ(stream.Push('A'), "STA");
  EXPECT_EQ(stream.Push('\n'), "");
  EXPECT_EQ(stream.Push('b'), "\nb");
  for (char c : std::string("STO")) EXPECT_EQ(stream.Push(c), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.Push('P'), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.stop_string(), "STOP");
  EXPECT_EQ(stream.Push('x'), "");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(TextStreamTest, FlushReleasesWhatWasNoStopString) {
  EXPECT_EQ(Stream("abcST", {"STOP"}), "abcST");
  EXPECT_EQ(Stream("abc\xE4\xB8", {"STOP"}), "abc\xEF\xBF\xBD");
  EXPECT_EQ(Stream("abc\xE4\xB8", {"\xEF\xBF\xBD"}), "abc");
}

TEST(TextStreamTest, StopStringsThatOverlap) {
  EXPECT_EQ(Stream("xaabaaby", {"aabaaby"}), "x");
  EXPECT_EQ(Stream("aaaaab", {"aaab"}), "aa");
  EXPECT_EQ(Stream("abcd", {"bcd", "c"}), "ab");
  EXPECT_EQ(Stream("abcd", {"cd", "bcd"}), "a");
  EXPECT_EQ(Stream("\xC3\xA9\xE4\xB8\xAD\xE6\x96\x87", {"\xE4\xB8\xAD\xE6\x96\x87"}), "\xC3\xA9");
  // Shares its first byte with the stop string.
  EXPECT_EQ(Stream("\xE4\xB8\xAE!", {"\xE4\xB8\xAD"}), "\xE4\xB8\xAE!");
}

TEST(TextStreamTest, IgnoresEmptyAndMalformedStopStrings) {
  EXPECT_EQ(Stream("abc", {"", "\xFF", "\xE4"}), "abc");
}

// The text before the earliest place where a stop string ends.
std::string StopByDefinition(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(TextStreamTest, AgreesWithTheDefinitionOnRandomTexts) {
  std::mt19937 random(5);
  auto text_of = [&](size_t length) {
    std::string text;
    for (; length > 0; --length)
      text += std::vector<std::string>{"a", "b", "\xC3\xA9"}[random() % 3];
    return text;
  };
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(text_of(1 + random() % 5));
    const std::string text = text_of(random() % 20);
    const std::string expected = StopByDefinition(text, stops);
    TextStream stream(&ByteTokenizer(), {.stop_strings = stops});
    EXPECT_EQ(Stream(&stream, text), expected) << text;
    EXPECT_EQ(stream.stopped(), expected != text);
  }
}

TEST(TextStreamTest, SpecialTokensAreHiddenUnlessAskedFor) {
  TextStream hidden(&ByteTokenizer(), {});
  EXPECT_EQ(hidden.Push(256), "");
  EXPECT_EQ(hidden.Push('a'), "a");
  TextStream shown(&ByteTokenizer(), {.render_special = true});
  EXPECT_EQ(shown.Push(256), "<|im_end|>");
  EXPECT_EQ(shown.Push(-1), "");
  EXPECT_EQ(shown.Push(257), "");
}

TEST(TextStreamTest, LeadingSpaceGoesOnlyAtTheStartOfAText) {
  const auto tokenizer =
      *Tokenizer::Create(SentencePieceManifest({{"\xE2\x96\x81"
                                                 "a",
                                                 1}}));
  TextStream answer(tokenizer.get(), {});
  EXPECT_EQ(answer.Push(259), " a");
  TextStream text(tokenizer.get(), {.at_text_start = true});
  EXPECT_EQ(text.Push(1), "");
  EXPECT_EQ(text.Push(259), "a");
  EXPECT_EQ(text.Push(259), " a");
}

TEST(TextStreamTest, AStopStringThatNamesASpecialTokenIsMetByTheToken) {
  constexpr int32_t kImEnd = 256;
  for (const bool render_special : {false, true}) {
    TextStream stream(&ByteTokenizer(),
                      {.stop_strings = {"<|im_end|>", "cd"}, .render_special = render_special});
    EXPECT_EQ(stream.Push('a'), "a");
    EXPECT_EQ(stream.Push('c'), "");  // might become "cd"
    EXPECT_EQ(stream.Push(kImEnd), "c");
    EXPECT_TRUE(stream.stopped());
    EXPECT_EQ(stream.stop_string(), "<|im_end|>");
    EXPECT_EQ(stream.Push('b'), "");
    EXPECT_EQ(stream.Flush(), "");
  }
  // Written as text, it stops as any other string.
  TextStream text(&ByteTokenizer(), {.stop_strings = {"<|im_end|>"}});
  EXPECT_EQ(Stream(&text, "x<|im_end|>y"), "x");
  EXPECT_TRUE(text.stopped());
  // Part of a name is no name.
  TextStream part(&ByteTokenizer(), {.stop_strings = {"im_end"}});
  EXPECT_EQ(part.Push(kImEnd), "");
  EXPECT_FALSE(part.stopped());
}

TEST(TextStreamTest, AnIncompleteCharacterBeforeAStoppingTokenIsReplaced) {
  TextStream stream(&ByteTokenizer(), {.stop_strings = {"<|im_end|>"}});
  EXPECT_EQ(stream.Push(0xE4), "");
  EXPECT_EQ(stream.Push(256), "\xEF\xBF\xBD");
  EXPECT_TRUE(stream.stopped());
}

}  // namespace
}  // namespace gguf_offload
