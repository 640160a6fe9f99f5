#include "weightd/store/resident_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload::store {
namespace {

constexpr size_t kAll = size_t{1} << 40;

class ResidentPagesTest : public ::testing::Test {
 protected:
  std::shared_ptr<const MappedFile> Open(size_t bytes) {
    const std::string path = folder_.Path("file");
    std::ofstream(path, std::ios::binary) << std::string(bytes, 'x');
    auto file = MappedFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return *file;
  }

  TempFolder folder_;
};

TEST_F(ResidentPagesTest, AnEmptyFileHasNone) { EXPECT_EQ(ResidentBytes(*Open(0), kAll), 0u); }

TEST_F(ResidentPagesTest, AFileJustWrittenIsThere) {
  for (const size_t bytes : {1u, 4096u, 4097u, 100000u, 3u << 20}) {
    EXPECT_EQ(ResidentBytes(*Open(bytes), kAll), bytes);
    EXPECT_EQ(ResidentBytes(*Open(bytes), 256), bytes) << "estimated";
  }
}

// Memory files cannot be evicted, and holes in them are pages that are not there.
TEST_F(ResidentPagesTest, CountsThePagesThatAreThere) {
  constexpr size_t kPages = 4096;
  UniqueFd fd(memfd_create("half", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_GE(fd.get(), 0);
  ASSERT_EQ(ftruncate(fd.get(), kPages * 4096), 0);
  // Every other run of 64 pages.
  const std::string run(64 * 4096, 'x');
  for (size_t first = 0; first < kPages; first += 128) {
    ASSERT_EQ(pwrite(fd.get(), run.data(), run.size(), static_cast<off_t>(first * 4096)),
              static_cast<ssize_t>(run.size()));
  }
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL),
            0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  UniqueFd read_only(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto file = MappedFile::FromDescriptor(std::move(read_only), "half");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ResidentBytes(**file, kAll), kPages * 4096 / 2);
  const std::optional<uint64_t> estimate = ResidentBytes(**file, 1024);
  ASSERT_TRUE(estimate.has_value());
  EXPECT_NEAR(static_cast<double>(*estimate), kPages * 4096 / 2.0, kPages * 4096 * 0.1);
}

}  // namespace
}  // namespace gguf_offload::store
