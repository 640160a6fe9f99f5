#include "weightd/shm/handoff.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "weightd/store/unique_fd.h"

namespace gguf_offload::shm {
namespace {

using store::UniqueFd;

constexpr int kAllSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

// A memfd with these seals, opened again for reading only.
UniqueFd ReadOnlyMemfd(int seals) {
  const UniqueFd fd(memfd_create("weights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), 4096), 0);
  if (seals != 0) {
    EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  return UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

std::string MakeFile(const char* name, mode_t mode) {
  const std::string path = std::string(testing::TempDir()) + "/" + name;
  unlink(path.c_str());
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(fchmod(fd.get(), mode), 0);
  return path;
}

TEST(CheckShareable, TakesAReadOnlyRegularFile) {
  const std::string path = MakeFile("plain", 0444);
  EXPECT_TRUE(CheckShareable(UniqueFd(open(path.c_str(), O_RDONLY)).get()).ok());
}

TEST(CheckShareable, RefusesWhatIsNotARegularFileOpenForReading) {
  const std::string path = MakeFile("plain", 0644);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(CheckShareable(UniqueFd(open(path.c_str(), O_RDWR)).get())));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(CheckShareable(UniqueFd(open(path.c_str(), O_PATH)).get())));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(CheckShareable(UniqueFd(open("/dev/null", O_RDONLY)).get())));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      CheckShareable(UniqueFd(open("/tmp", O_RDONLY | O_DIRECTORY)).get())));
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckShareable(-1)));
}

TEST(CheckShareable, Case32_MemfdsNeedAllSeals) {
  EXPECT_TRUE(CheckShareable(ReadOnlyMemfd(kAllSeals).get()).ok());
  for (const int missing : {F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE}) {
    EXPECT_TRUE(
        absl::IsFailedPrecondition(CheckShareable(ReadOnlyMemfd(kAllSeals & ~missing).get())))
        << missing;
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckShareable(ReadOnlyMemfd(0).get())));
}

TEST(WritableBy, FollowsOwnerAndMode) {
  const uint32_t owner = geteuid();
  const uint32_t stranger = owner + 4242, strange_group = getegid() + 4242;
  const UniqueFd closed(open(MakeFile("closed", 0444).c_str(), O_RDONLY));
  EXPECT_TRUE(WritableBy(closed.get(), owner, strange_group));  // may chmod
  EXPECT_TRUE(WritableBy(closed.get(), 0, 0));
  EXPECT_FALSE(WritableBy(closed.get(), stranger, getegid()));
  EXPECT_FALSE(WritableBy(closed.get(), stranger, strange_group));
  const UniqueFd group(open(MakeFile("group", 0460).c_str(), O_RDONLY));
  EXPECT_TRUE(WritableBy(group.get(), stranger, getegid()));
  EXPECT_FALSE(WritableBy(group.get(), stranger, strange_group));
  const UniqueFd all(open(MakeFile("all", 0446).c_str(), O_RDONLY));
  EXPECT_TRUE(WritableBy(all.get(), stranger, strange_group));
  EXPECT_FALSE(WritableBy(ReadOnlyMemfd(kAllSeals).get(), owner, getegid()));
}

}  // namespace
}  // namespace gguf_offload::shm
