#include "computed/cli/output.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "gguf_offload/v1/weights.pb.h"

namespace gguf_offload::cli {
namespace {

std::string TempPath(const std::string& name) {
  return std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
}

TEST(HumanBytesTest, PicksTheUnitThatKeepsTheNumberShort) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1.0 KiB");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(HumanBytes(uint64_t{12} << 30), "12.0 GiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16.0 EiB");
}

TEST(OneLineTest, TakesOutWhatControlsATerminal) {
  EXPECT_EQ(OneLine("a\nb\x1b[31m\x7f"), "a b [31m ");
  EXPECT_EQ(OneLine("größer"), "größer");
}

TEST(TableTest, AlignsColumnsByCodePoints) {
  Table table({"NAME", ">SIZE", "ERROR"});
  table.Add({"größer", "1", ""});
  table.Add({"b", "1000", "line\nbreak"});
  EXPECT_EQ(table.ToString(),
            "NAME    SIZE  ERROR\n"
            "größer     1\n"
            "b       1000  line break\n");
}

TEST(OutputFileTest, KeepsOnlyWhatWasClosed) {
  const std::string kept = TempPath("kept");
  const std::string dropped = TempPath("dropped");
  {
    absl::StatusOr<OutputFile> file = OutputFile::Create(kept);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Write("abc", 3).ok());
    ASSERT_TRUE(file->Close().ok());
    absl::StatusOr<OutputFile> other = OutputFile::Create(dropped);
    ASSERT_TRUE(other.ok()) << other.status();
    ASSERT_TRUE(other->Write("abc", 3).ok());
  }
  EXPECT_EQ(*ReadFile(kept), "abc");
  EXPECT_NE(access(dropped.c_str(), F_OK), 0);
}

TEST(OutputFileTest, SaysWhenTheDiskIsFull) {
  absl::StatusOr<OutputFile> file = OutputFile::Create("/dev/full");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Write("abc", 3).ok());
  EXPECT_EQ(file->Close().message(), "cannot write /dev/full: No space left on device");
}

TEST(ReadFileTest, NamesTheFileThatIsNotThere) {
  EXPECT_EQ(ReadFile("/nonexistent/x").status().message(),
            "cannot read /nonexistent/x: No such file or directory");
}

TEST(JsonTest, UsesTheNamesOfTheProtoFileAndShowsDefaults) {
  v1::UnloadModelResponse message;
  EXPECT_EQ(ToJsonLine(message), "{\"leases\":0}\n");
  message.set_leases(2);
  EXPECT_EQ(ToJson(message), "{\n \"leases\": 2\n}\n");
}

}  // namespace
}  // namespace gguf_offload::cli
