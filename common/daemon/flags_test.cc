#include "common/daemon/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/flags/flag.h"

ABSL_FLAG(std::string, test_folder, "", "For the test.");

namespace gguf_offload {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Flags, TakesARepeatedFlagOut) {
  std::vector<std::string> words = {"program",  "--model=a=/x,y", "--other",    "-model",
                                    "b=/z",     "--model-dir=/m", "--models=c", "--",
                                    "--model=d"};
  const auto values = TakeRepeatedFlag("model", words);
  ASSERT_TRUE(values.ok());
  EXPECT_THAT(*values, ElementsAre("a=/x,y", "b=/z"));
  EXPECT_THAT(words,
              ElementsAre("program", "--other", "--model-dir=/m", "--models=c", "--", "--model=d"));
}

TEST(Flags, ARepeatedFlagNeedsAValue) {
  std::vector<std::string> words = {"program", "--model"};
  EXPECT_TRUE(absl::IsInvalidArgument(TakeRepeatedFlag("model", words).status()));
  words = {"--model"};
  EXPECT_THAT(*TakeRepeatedFlag("model", words), IsEmpty());
}

TEST(Flags, DashesInNamesOnlyBecomeUnderscores) {
  std::vector<std::string> words = {"a-b", "--a-b=c-d", "-e-f", "g-h", "--", "--i-j"};
  UseUnderscores(words);
  EXPECT_THAT(words, ElementsAre("a-b", "--a_b=c-d", "-e_f", "g-h", "--", "--i-j"));
}

TEST(Flags, AbseilGetsTheRest) {
  EXPECT_TRUE(ParseFlags({"program", "--test-folder=/a-b"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_test_folder), "/a-b");
  EXPECT_TRUE(absl::IsInvalidArgument(ParseFlags({"program", "stray"})));
}

}  // namespace
}  // namespace gguf_offload
