#include "weightd/store/mapped_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload::store {
namespace {

using ::testing::HasSubstr;

void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& what) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
}

std::string Contents(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

TEST(MappedFile, MapsReadOnly) {
  const TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m.gguf", "hello"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Contents(**file), "hello");
  EXPECT_EQ((*file)->base_name(), "m.gguf");
  EXPECT_EQ(fcntl((*file)->fd(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_NE(fcntl((*file)->fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_TRUE((*file)->CheckIntact().ok());
  EXPECT_FALSE((*file)->ModifiedInPlace());
}

TEST(MappedFile, EmptyFile) {
  const TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("empty", ""));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), 0u);
  EXPECT_EQ((*file)->data(), nullptr);
}

TEST(MappedFile, FromDescriptor) {
  const TempFolder folder;
  UniqueFd fd(open(folder.Write("m", "hello").c_str(), O_RDONLY | O_CLOEXEC));
  const auto file = MappedFile::FromDescriptor(std::move(fd), "somewhere/m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Contents(**file), "hello");
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const UniqueFd writer(pipe_ends[1]);
  ExpectError(MappedFile::FromDescriptor(UniqueFd(pipe_ends[0]), "pipe").status(),
              absl::StatusCode::kInvalidArgument, "not a regular file but a FIFO");
}

TEST(MappedFile, BadPaths) {
  const TempFolder folder;
  ExpectError(MappedFile::Open(folder.Path("absent")).status(), absl::StatusCode::kNotFound,
              "absent: cannot open");
  ExpectError(MappedFile::Open("").status(), absl::StatusCode::kInvalidArgument, "path");
  ExpectError(MappedFile::Open(std::string("a\0b", 3)).status(), absl::StatusCode::kInvalidArgument,
              "NUL");
  ExpectError(MappedFile::Open(std::string(10000, 'a')).status(),
              absl::StatusCode::kInvalidArgument, "cannot open");
}

// A FIFO without a writer would block an ordinary open for ever.
TEST(MappedFile, Case26FifoDirectoryAndDevice) {
  const TempFolder folder;
  ASSERT_EQ(mkfifo(folder.Path("fifo").c_str(), 0600), 0);
  ExpectError(MappedFile::Open(folder.Path("fifo")).status(), absl::StatusCode::kInvalidArgument,
              "fifo: not a regular file but a FIFO");
  ExpectError(MappedFile::Open(folder.path()).status(), absl::StatusCode::kInvalidArgument,
              "not a regular file but a directory");
  ExpectError(MappedFile::Open("/dev/null").status(), absl::StatusCode::kInvalidArgument,
              "/dev/null: not a regular file");
  ASSERT_EQ(symlink("loop", folder.Path("loop").c_str()), 0);
  ExpectError(MappedFile::Open(folder.Path("loop")).status(), absl::StatusCode::kPermissionDenied,
              "loop");
}

TEST(MappedFile, Case26LinksOutOfTheAllowedFolders) {
  const TempFolder models;
  const TempFolder elsewhere;
  const MappedFile::Options options{.allowed_roots = {models.path()}};
  EXPECT_TRUE(MappedFile::Open(models.Write("in", "x"), options).ok());
  elsewhere.Write("out", "x");
  ExpectError(MappedFile::Open(elsewhere.Path("out"), options).status(),
              absl::StatusCode::kPermissionDenied, "outside the allowed folders");
  ASSERT_EQ(symlink(elsewhere.Path("out").c_str(), models.Path("link").c_str()), 0);
  ExpectError(MappedFile::Open(models.Path("link"), options).status(),
              absl::StatusCode::kPermissionDenied, "outside the allowed folders");
  ASSERT_EQ(symlink("in", models.Path("inner_link").c_str()), 0);
  EXPECT_TRUE(MappedFile::Open(models.Path("inner_link"), options).ok());
  const std::string up = elsewhere.path().substr(elsewhere.path().rfind('/') + 1);
  ExpectError(MappedFile::Open(models.Path("../" + up + "/out"), options).status(),
              absl::StatusCode::kPermissionDenied, "outside the allowed folders");
  // A folder whose name merely begins like the allowed one.
  ASSERT_EQ(mkdir(models.Path("a").c_str(), 0700), 0);
  ASSERT_EQ(mkdir(models.Path("ab").c_str(), 0700), 0);
  models.Write("a/m", "x");
  models.Write("ab/m", "x");
  const MappedFile::Options narrow{.allowed_roots = {"/absent", models.Path("a")}};
  EXPECT_TRUE(MappedFile::Open(models.Path("a/m"), narrow).ok());
  EXPECT_EQ(MappedFile::Open(models.Path("ab/m"), narrow).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST(MappedFile, Case32MemfdOnlyIfFullySealed) {
  const UniqueFd fd(memfd_create("weights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_TRUE(fd.valid());
  ASSERT_EQ(write(fd.get(), "hello", 5), 5);
  const std::string path = absl::StrCat("/proc/self/fd/", fd.get());
  ExpectError(MappedFile::Open(path).status(), absl::StatusCode::kFailedPrecondition, "sealed");
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  ExpectError(MappedFile::Open(path).status(), absl::StatusCode::kFailedPrecondition, "sealed");
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL), 0);
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Contents(**file), "hello");
  ExpectError(MappedFile::Open(path, {.allowed_roots = {"/"}}).status(),
              absl::StatusCode::kPermissionDenied, "outside the allowed folders");
}

TEST(MappedFile, Case28TruncatedWhileMapped) {
  const TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m", std::string(20000, 'x')));
  ASSERT_TRUE(file.ok()) << file.status();
  // Inside the last page: no fault, so only the size tells.
  folder.Truncate("m", 19999);
  ExpectError((*file)->CheckIntact(), absl::StatusCode::kDataLoss,
              "truncated from 20000 to 19999 bytes");
  folder.Truncate("m", 100);
  EXPECT_EQ(static_cast<volatile const uint8_t*>((*file)->data())[16384], 0);
  // Grown again: the size is back, but not what was in it.
  folder.Truncate("m", 20000);
  ExpectError((*file)->CheckIntact(), absl::StatusCode::kDataLoss, "a page could not be read");
}

TEST(MappedFile, Case29ReplacedByRename) {
  const TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m", "old"));
  ASSERT_TRUE(file.ok()) << file.status();
  folder.Write("new", "new");
  ASSERT_EQ(rename(folder.Path("new").c_str(), folder.Path("m").c_str()), 0);
  EXPECT_EQ(Contents(**file), "old");
  EXPECT_TRUE((*file)->CheckIntact().ok());
  EXPECT_FALSE((*file)->ModifiedInPlace());
}

TEST(MappedFile, ModifiedInPlaceIsNotDamage) {
  const TempFolder folder;
  const auto file = MappedFile::Open(folder.Write("m", "hello"));
  ASSERT_TRUE(file.ok()) << file.status();
  folder.Overwrite("m", 0, "j");
  const timespec times[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, folder.Path("m").c_str(), times, 0), 0);
  EXPECT_TRUE((*file)->ModifiedInPlace());
  EXPECT_TRUE((*file)->CheckIntact().ok());
  EXPECT_EQ(Contents(**file), "jello");
}

}  // namespace
}  // namespace gguf_offload::store
