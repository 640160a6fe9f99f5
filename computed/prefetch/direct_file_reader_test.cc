#include "computed/prefetch/direct_file_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "computed/prefetch/direct_file.h"
#include "computed/prefetch/io_ring.h"
#include "computed/prefetch/testing/plain_file_source.h"
#include "computed/prefetch/testing/reader_contract.h"

namespace gguf_offload {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<HostReader> NewReader(const PlainFileSource& source,
                                      const DirectFileOptions& options = {}) {
  auto reader = NewDirectFileReader(source, options);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

#define SKIP_WITHOUT_IO_URING()                                       \
  IoRing ring;                                                        \
  if (const absl::Status status = ring.Initialize(1); !status.ok()) { \
    GTEST_SKIP() << status;                                           \
  }

// How many pages of the shard the page cache holds.
int CachedPages(const PlainFileSource& source, uint32_t shard) {
  const size_t bytes = source.contents(shard).size();
  void* const mapping =
      mmap(nullptr, bytes, PROT_READ, MAP_SHARED, source.ShardDescriptor(shard), 0);
  std::vector<unsigned char> resident((bytes + 4095) / 4096);
  EXPECT_EQ(mincore(mapping, bytes, resident.data()), 0);
  munmap(mapping, bytes);
  int count = 0;
  for (unsigned char page : resident) count += page & 1;
  return count;
}

class DirectFileReaderTest : public ::testing::TestWithParam<DirectFileOptions> {
 protected:
  void SetUp() override { SKIP_WITHOUT_IO_URING(); }
};

INSTANTIATE_TEST_SUITE_P(Options, DirectFileReaderTest,
                         ::testing::Values(DirectFileOptions{},
                                           DirectFileOptions{.queue_depth = 1, .piece_bytes = 4096},
                                           DirectFileOptions{.past_the_cache = false},
                                           DirectFileOptions{.queue_depth = 3,
                                                             .piece_bytes = 65536,
                                                             .past_the_cache = false}));

TEST_P(DirectFileReaderTest, KeepsTheContract) {
  PlainFileSource source(ContractShards());
  const auto reader = NewReader(source, GetParam());
  ExpectReaderContract(*reader, source);
  if (!GetParam().past_the_cache) {
    EXPECT_THAT(reader->note(), HasSubstr("shard-0.gguf is read through the page cache"));
  }
}

TEST_P(DirectFileReaderTest, KeepsTheContractInMemory) {
  if (access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  PlainFileSource source(ContractShards(), "/dev/shm");
  const auto reader = NewReader(source, GetParam());
  ExpectReaderContract(*reader, source);
}

TEST_P(DirectFileReaderTest, LeavesNothingInThePageCache) {
  PlainFileSource source({3 << 20});
  const auto file = DirectFile::OpenCached(source.ShardDescriptor(0), "a", "as configured");
  ASSERT_TRUE(file.ok());
  file->Forget(0, 3 << 20);
  if (CachedPages(source, 0) > 0) GTEST_SKIP() << "a file system that is its own cache";
  std::string read(3 << 20, '?');
  ASSERT_EQ(pread(file->fd(), read.data(), read.size(), 0), static_cast<ssize_t>(read.size()));
  ASSERT_EQ(CachedPages(source, 0), 768);
  file->Forget(0, 3 << 20);
  const auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  EXPECT_TRUE(ReadAll(*reader, {memory.Range(0, 0, 3 << 20)}).ok());
  memory.ExpectFilled();
  EXPECT_EQ(CachedPages(source, 0), 0);
}

TEST_P(DirectFileReaderTest, ATruncatedFileIsDataLoss) {
  PlainFileSource source({5000, 5 << 20});
  const auto reader = NewReader(source, GetParam());
  for (const uint64_t end : {(3u << 20) + 8192 + 100, (3u << 20) + 8192, 2u << 20, 17u, 0u}) {
    source.Truncate(1, end);
    GuardedMemory memory(source);
    const absl::Status status = ReadAll(*reader, {memory.Range(1, 777, (4 << 20))});
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("shard 1 (shard-1.gguf) at offset "));
    memory.ExpectGuardsIntact();
    GuardedMemory before(source);
    if (end > 1000) {
      EXPECT_TRUE(ReadAll(*reader, {before.Range(1, 777, end - 777)}).ok());
      before.ExpectFilled();
      before.ExpectGuardsIntact();
    }
  }
}

TEST_P(DirectFileReaderTest, NamesTheOffsetAtWhichAFileEnds) {
  PlainFileSource source({1 << 20});
  const auto reader = NewReader(source, GetParam());
  source.Truncate(0, 20100);
  GuardedMemory memory(source);
  const absl::Status status = ReadAll(*reader, {memory.Range(0, 17000, 3200)});
  EXPECT_THAT(std::string(status.message()), HasSubstr("at offset 20100"));
}

TEST_P(DirectFileReaderTest, DamageIsDataLoss) {
  PlainFileSource source({20000});
  const auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  source.SetIntact(absl::DataLossError("rewritten"));
  EXPECT_EQ(ReadAll(*reader, {memory.Range(0, 0, 20000)}), absl::DataLossError("rewritten"));
}

TEST_P(DirectFileReaderTest, StopsAtTheDeadline) {
  PlainFileSource source({5 << 20});
  const auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  const absl::Status status =
      ReadAll(*reader, {memory.Range(0, 3, 4 << 20)}, absl::Now() - absl::Seconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 0 (shard-0.gguf) at offset 3"));
  // And serves the next.
  EXPECT_TRUE(ReadAll(*reader, {memory.Range(0, 0, 5 << 20)}, absl::Now() + absl::Hours(1)).ok());
}

TEST_P(DirectFileReaderTest, DestructionWaitsForReads) {
  PlainFileSource source({5 << 20});
  auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  std::atomic<int> ended = 0;
  for (int i = 0; i < 20; ++i) {
    reader->ReadAsync({memory.Range(0, 777, 1 << 20), memory.Range(0, 4000, 3 << 20)},
                      absl::InfiniteFuture(), [&](absl::Status status) { ended += status.ok(); });
  }
  reader.reset();
  EXPECT_EQ(ended, 20);
  memory.ExpectFilled();
  memory.ExpectGuardsIntact();
}

TEST_P(DirectFileReaderTest, DestructionWithReadsPastTheirDeadline) {
  PlainFileSource source({5 << 20});
  auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  std::atomic<int> ended = 0;
  for (int i = 0; i < 20; ++i) {
    reader->ReadAsync({memory.Range(0, 777, 1 << 20)}, absl::InfinitePast(),
                      [&](absl::Status status) { ended += absl::IsDeadlineExceeded(status); });
  }
  reader.reset();
  EXPECT_EQ(ended, 20);
}

TEST_P(DirectFileReaderTest, ReadsFromWithinDone) {
  PlainFileSource source({20000});
  auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  absl::Notification done;
  reader->ReadAsync({memory.Range(0, 0, 5000)}, absl::InfiniteFuture(), [&](absl::Status) {
    reader->ReadAsync({memory.Range(0, 5000, 5000)}, absl::InfiniteFuture(),
                      [&](absl::Status status) {
                        EXPECT_TRUE(status.ok()) << status;
                        done.Notify();
                      });
  });
  done.WaitForNotification();
  memory.ExpectFilled();
}

TEST(DirectFileReaderErrorsTest, RefusesWhatCannotWork) {
  PlainFileSource source({20000});
  for (const DirectFileOptions& options :
       {DirectFileOptions{.queue_depth = 0}, DirectFileOptions{.queue_depth = 100'000},
        DirectFileOptions{.piece_bytes = 2048}, DirectFileOptions{.piece_bytes = 5000},
        DirectFileOptions{.piece_bytes = 1ull << 40}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(NewDirectFileReader(source, options).status()));
  }
  source.StopSharing();
  EXPECT_TRUE(absl::IsFailedPrecondition(NewDirectFileReader(source).status()));
}

TEST(DirectFileTest, LeavesTheFlagsOfTheGivenDescriptorAlone) {
  PlainFileSource source({20000});
  const int before = fcntl(source.ShardDescriptor(0), F_GETFL);
  const auto file = DirectFile::Open(source.ShardDescriptor(0), "a", 4096);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(fcntl(source.ShardDescriptor(0), F_GETFL), before);
  EXPECT_NE(file->fd(), source.ShardDescriptor(0));
  EXPECT_EQ((fcntl(file->fd(), F_GETFL) & O_DIRECT) != 0, file->direct());
  EXPECT_EQ(fcntl(file->fd(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(file->refusal().empty(), file->direct());
}

TEST(DirectFileTest, ReadsThroughTheCacheWhereBlocksAreRefused) {
  PlainFileSource source({20000});
  // No disk has blocks this small.
  const auto file = DirectFile::Open(source.ShardDescriptor(0), "a.gguf", 64);
  ASSERT_TRUE(file.ok()) << file.status();
  if (file->direct()) GTEST_SKIP() << "a file system in memory, which takes any";
  EXPECT_THAT(file->refusal(), AllOf(HasSubstr("a.gguf"), HasSubstr("Invalid argument")));
  EXPECT_EQ(fcntl(file->fd(), F_GETFL) & O_DIRECT, 0);
  std::string read(100, '?');
  ASSERT_EQ(pread(file->fd(), read.data(), read.size(), 19901), 99);
  EXPECT_EQ(read.substr(0, 99), source.contents(0).substr(19901, 99));
}

}  // namespace
}  // namespace gguf_offload
