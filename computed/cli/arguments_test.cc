#include "computed/cli/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gguf_offload::cli {
namespace {

using ::testing::ElementsAre;

constexpr Flag kFlags[] = {
    {"worker", FlagKind::kText, "ADDR", "", /*required=*/true},
    {"stop", FlagKind::kText, "TEXT", "", /*required=*/false, /*repeated=*/true},
    {"max-tokens", FlagKind::kInteger, "N", ""},
    {"temperature", FlagKind::kReal, "T", ""},
    {"raw", FlagKind::kSwitch, "", ""},
};

absl::StatusOr<Arguments> Parse(std::vector<std::string> words, size_t max_operands = 1) {
  return Arguments::Parse(kFlags, max_operands, words);
}

TEST(ArgumentsTest, ReadsBothSpellingsOfAFlag) {
  const absl::StatusOr<Arguments> arguments =
      Parse({"--worker=unix:/tmp/a=b", "--max-tokens", "7", "--temperature=0.5", "--raw", "name"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_EQ(arguments->Text("worker"), "unix:/tmp/a=b");
  EXPECT_EQ(arguments->Integer("max-tokens", 1), 7);
  EXPECT_EQ(arguments->Real("temperature", 0), 0.5);
  EXPECT_TRUE(arguments->Has("raw"));
  EXPECT_THAT(arguments->operands(), ElementsAre("name"));
}

TEST(ArgumentsTest, GivesTheDefaultOfWhatIsAbsent) {
  const absl::StatusOr<Arguments> arguments = Parse({"--worker=a"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_EQ(arguments->Integer("max-tokens", 3), 3);
  EXPECT_EQ(arguments->Real("temperature", 2.5), 2.5);
  EXPECT_EQ(arguments->Text("stop", "x"), "x");
  EXPECT_FALSE(arguments->Has("raw"));
}

TEST(ArgumentsTest, KeepsRepeatedValuesInOrder) {
  const absl::StatusOr<Arguments> arguments = Parse({"--worker=a", "--stop=1", "--stop", "--stop"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_THAT(arguments->Texts("stop"), ElementsAre("1", "--stop"));
}

TEST(ArgumentsTest, TakesEverythingAfterTwoDashesAsOperand) {
  const absl::StatusOr<Arguments> arguments = Parse({"--worker=a", "--", "--raw"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_THAT(arguments->operands(), ElementsAre("--raw"));
}

TEST(ArgumentsTest, HelpNeedsNoRequiredFlags) {
  const absl::StatusOr<Arguments> arguments = Parse({"--help"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_TRUE(arguments->help());
}

struct BadCase {
  std::vector<std::string> words;
  std::string message;
};

TEST(ArgumentsTest, SaysInOneLineWhatIsWrong) {
  const BadCase cases[] = {
      {{}, "--worker=ADDR is needed"},
      {{"--worker=a", "--nonsense=1"}, "unknown flag --nonsense"},
      {{"--worker=a", "--worker=b"}, "--worker is given twice"},
      {{"--worker"}, "--worker needs a value"},
      {{"--worker=a", "--raw=yes"}, "--raw takes no value"},
      {{"--worker=a", "--max-tokens=-1"}, "--max-tokens=-1 is not a whole number of at least 0"},
      {{"--worker=a", "--max-tokens=9223372036854775808"},
       "--max-tokens=9223372036854775808 is not a whole number of at least 0"},
      {{"--worker=a", "--temperature=warm"}, "--temperature=warm is not a number"},
      {{"--worker=a", "--temperature=nan"}, "--temperature=nan is not a number"},
      {{"--worker=a", "one", "two"}, "unexpected argument 'two'"},
  };
  for (const BadCase& bad : cases) {
    EXPECT_EQ(Parse(bad.words).status(), absl::InvalidArgumentError(bad.message));
  }
}

TEST(ParseTokenIdsTest, ReadsListsWithAndWithoutBrackets) {
  EXPECT_THAT(*ParseTokenIds("1,2,3"), ElementsAre(1, 2, 3));
  EXPECT_THAT(*ParseTokenIds(" [ 1, 2147483647 ]\n"), ElementsAre(1, 2147483647));
  EXPECT_THAT(*ParseTokenIds("[]"), ElementsAre());
}

TEST(ParseTokenIdsTest, RefusesAnythingElse) {
  for (const char* text : {"1,,2", "1;2", "a", "-1", "2147483648", "[1,2", "1,"}) {
    EXPECT_FALSE(ParseTokenIds(text).ok()) << text;
  }
}

}  // namespace
}  // namespace gguf_offload::cli
