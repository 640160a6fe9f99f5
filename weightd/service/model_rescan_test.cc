#include "weightd/service/model_rescan.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace gguf_offload {
namespace {

namespace fs = std::filesystem;

const char kOne[] = "tests/testdata/golden/models/qwen3-iq.gguf";
const char kOther[] = "tests/testdata/golden/models/qwen2-legacy.gguf";

class ModelRescanTest : public ::testing::Test {
 protected:
  ModelRescanTest() {
    std::string pattern = std::string(std::getenv("TEST_TMPDIR")) + "/rescanXXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~ModelRescanTest() override { fs::remove_all(folder_); }

  // As a careful writer does: under another name first.
  void Put(const char* source, const std::string& name) {
    fs::copy_file(source, folder_ / "part", fs::copy_options::overwrite_existing);
    fs::rename(folder_ / "part", folder_ / name);
  }

  uint64_t Generation(const std::string& name) const {
    const auto status = store_.Status(name);
    return status.ok() ? status->generation : 0;
  }
  std::string ErrorOf(const std::string& name) const { return store_.Status(name)->error; }

  fs::path folder_;
  store::ModelStore store_{{}};
};

TEST_F(ModelRescanTest, AFileThatHasComeToRestIsLoaded) {
  Put(kOne, "m.gguf");
  ASSERT_TRUE(store_.Load("demo", (folder_ / "m.gguf").string()).ok());
  const uint64_t before = Generation("demo");
  ModelRescan rescan(&store_, "", absl::Hours(24));
  Put(kOther, "m.gguf");
  rescan.LookForChanges();  // sees it for the first time
  EXPECT_EQ(Generation("demo"), before);
  rescan.LookForChanges();
  EXPECT_NE(Generation("demo"), before);
  EXPECT_NE(Generation("demo"), 0u);
}

TEST_F(ModelRescanTest, AFileThatIsBeingWrittenIsLeftAlone) {
  Put(kOne, "m.gguf");
  ASSERT_TRUE(store_.Load("demo", (folder_ / "m.gguf").string()).ok());
  const uint64_t before = Generation("demo");
  ModelRescan rescan(&store_, "", absl::Hours(24));
  for (int i = 0; i < 3; ++i) {
    std::ofstream(folder_ / "m.gguf", std::ios::app) << "more";
    rescan.LookForChanges();
  }
  EXPECT_EQ(Generation("demo"), before);
}

TEST_F(ModelRescanTest, WhatCannotBeLoadedAnyMoreIsServedAsItWas) {
  Put(kOne, "m.gguf");
  ASSERT_TRUE(store_.Load("demo", (folder_ / "m.gguf").string()).ok());
  const uint64_t before = Generation("demo");
  ModelRescan rescan(&store_, "", absl::Hours(24));
  std::ofstream(folder_ / "part") << "no model";
  fs::rename(folder_ / "part", folder_ / "m.gguf");
  rescan.ReloadAll();
  EXPECT_EQ(Generation("demo"), before);
  EXPECT_NE(ErrorOf("demo"), "");
}

TEST_F(ModelRescanTest, AFolderIsFollowed) {
  Put(kOne, "a.gguf");
  ASSERT_EQ(*store_.LoadDirectory(folder_.string()), 1u);
  ModelRescan rescan(&store_, folder_.string(), absl::Hours(24));
  Put(kOther, "b.gguf");
  rescan.LookForChanges();
  EXPECT_EQ(Generation("b"), 0u);
  rescan.LookForChanges();
  EXPECT_NE(Generation("b"), 0u);
  fs::remove(folder_ / "a.gguf");
  rescan.LookForChanges();
  rescan.LookForChanges();
  EXPECT_FALSE(store_.Status("a").ok());
  EXPECT_NE(Generation("b"), 0u);
}

TEST_F(ModelRescanTest, ReloadingAllFollowsTheFolderAtOnce) {
  ModelRescan rescan(&store_, folder_.string(), absl::ZeroDuration());
  Put(kOne, "a.gguf");
  rescan.ReloadAll();
  const uint64_t before = Generation("a");
  EXPECT_NE(before, 0u);
  rescan.ReloadAll();
  EXPECT_EQ(Generation("a"), before) << "the same file is the same generation";
}

}  // namespace
}  // namespace gguf_offload
