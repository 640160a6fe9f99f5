#include "common/log/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

namespace gguf_offload {
namespace {

using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    SetLogSink([this](std::string_view line) { lines_.emplace_back(line); });
  }
  ~LogTest() override {
    SetLogSink(nullptr);
    SetLogLevel(LogLevel::kInfo);
  }
  std::vector<std::string> lines_;
};

TEST_F(LogTest, ALineHasTimeLevelMessageAndFields) {
  Log(LogLevel::kInfo, "model loaded", {{"model", "demo"}, {"bytes", 7u}, {"warm", true}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_THAT(lines_[0],
              MatchesRegex("[0-9-]+T[0-9:]+\\.[0-9][0-9][0-9]Z INFO model loaded model=demo "
                           "bytes=7 warm=true"));
}

TEST_F(LogTest, ValuesAreQuotedWhenTheyNeedIt) {
  EXPECT_EQ(FormatText(absl::UnixEpoch(), LogLevel::kError, "m",
                       {{"a", "two words"}, {"b", ""}, {"c", "x\"y"}}),
            "1970-01-01T00:00:00.000Z ERROR m a=\"two words\" b=\"\" c=\"x\\\"y\"");
}

TEST_F(LogTest, AValueCannotForgeALine) {
  const std::string line =
      FormatText(absl::UnixEpoch(), LogLevel::kInfo, "m\nERROR x", {{"a", "b\n\x1b[2J"}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_EQ(line, "1970-01-01T00:00:00.000Z INFO m\\x0aERROR x a=\"b\\x0a\\x1b[2J\"");
}

TEST_F(LogTest, RecordsBelowTheLevelAreDropped) {
  Log(LogLevel::kDebug, "unseen");
  EXPECT_TRUE(lines_.empty());
  SetLogLevel(LogLevel::kDebug);
  Log(LogLevel::kDebug, "seen");
  EXPECT_EQ(lines_.size(), 1u);
}

TEST_F(LogTest, AStatusIsAValue) {
  EXPECT_EQ(
      FormatText(absl::UnixEpoch(), LogLevel::kInfo, "m", {{"why", absl::NotFoundError("gone")}}),
      "1970-01-01T00:00:00.000Z INFO m why=\"NOT_FOUND: gone\"");
}

TEST_F(LogTest, JsonIsOneObjectALineWithNumbersAsNumbers) {
  const std::string line =
      FormatJson(absl::UnixEpoch(), LogLevel::kWarning, "two\nlines",
                 {{"text", "a \"b\"\x1b\xff"}, {"n", 1.5}, {"bad", 0.0 / 0.0}, {"on", true}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const nlohmann::json record = nlohmann::json::parse(line);
  EXPECT_EQ(record, (nlohmann::json{{"time", "1970-01-01T00:00:00.000Z"},
                                    {"level", "WARNING"},
                                    {"message", "two\nlines"},
                                    {"text", "a \"b\"\x1b\ufffd"},
                                    {"n", 1.5},
                                    {"bad", "nan"},
                                    {"on", true}}));
}

TEST_F(LogTest, TheFormatCanBeChosen) {
  SetLogFormat(LogFormat::kJson);
  Log(LogLevel::kInfo, "seen");
  SetLogFormat(LogFormat::kText);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(nlohmann::json::parse(lines_[0])["message"], "seen");
}

TEST_F(LogTest, LevelsHaveNames) {
  EXPECT_EQ(*ParseLogLevel("warning"), LogLevel::kWarning);
  EXPECT_EQ(*ParseLogLevel("DEBUG"), LogLevel::kDebug);
  EXPECT_FALSE(ParseLogLevel("loud").ok());
  EXPECT_FALSE(ParseLogLevel("").ok());
}

TEST_F(LogTest, ThreadsDoNotMixRecords) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 100; ++i) Log(LogLevel::kInfo, "record", {{"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines_.size(), 400u);
}

}  // namespace
}  // namespace gguf_offload
