#include "computed/prefetch/parallel_copy_reader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "computed/prefetch/testing/plain_file_source.h"
#include "computed/prefetch/testing/reader_contract.h"

namespace gguf_offload {
namespace {

std::unique_ptr<HostReader> NewReader(const PlainFileSource& source,
                                      const ParallelCopyOptions& options = {}) {
  auto reader = NewParallelCopyReader(source, options);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

class ParallelCopyReaderTest : public ::testing::TestWithParam<ParallelCopyOptions> {};

INSTANTIATE_TEST_SUITE_P(Options, ParallelCopyReaderTest,
                         ::testing::Values(ParallelCopyOptions{},
                                           ParallelCopyOptions{.threads = 1,
                                                               .around_caches = false},
                                           ParallelCopyOptions{.threads = 5, .piece_bytes = 4096}));

TEST_P(ParallelCopyReaderTest, KeepsTheContract) {
  PlainFileSource source(ContractShards());
  const auto reader = NewReader(source, GetParam());
  ExpectReaderContract(*reader, source);
}

TEST_P(ParallelCopyReaderTest, StopsAtTheDeadline) {
  PlainFileSource source({5 << 20});
  const auto reader = NewReader(source, GetParam());
  GuardedMemory memory(source);
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      ReadAll(*reader, {memory.Range(0, 0, 5 << 20)}, absl::Now() - absl::Seconds(1))));
  // And serves the next.
  EXPECT_TRUE(ReadAll(*reader, {memory.Range(0, 0, 5 << 20)}, absl::Now() + absl::Hours(1)).ok());
}

TEST_P(ParallelCopyReaderTest, DestructionWaitsForReads) {
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

TEST(ParallelCopyReaderErrorsTest, DamageIsDataLoss) {
  PlainFileSource source({20000});
  const auto reader = NewReader(source);
  GuardedMemory memory(source);
  source.SetIntact(absl::DataLossError("truncated"));
  EXPECT_EQ(ReadAll(*reader, {memory.Range(0, 0, 20000)}), absl::DataLossError("truncated"));
}

TEST(ParallelCopyReaderErrorsTest, ReadsFromWithinDone) {
  PlainFileSource source({20000});
  auto reader = NewReader(source);
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

TEST(ParallelCopyReaderErrorsTest, RefusesWhatCannotWork) {
  PlainFileSource source({20000});
  for (const ParallelCopyOptions& options :
       {ParallelCopyOptions{.threads = -1}, ParallelCopyOptions{.threads = 100'000},
        ParallelCopyOptions{.piece_bytes = 0}, ParallelCopyOptions{.piece_bytes = 5000}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(NewParallelCopyReader(source, options).status()));
  }
  source.StopSharing();
  EXPECT_TRUE(absl::IsFailedPrecondition(NewParallelCopyReader(source).status()));
}

}  // namespace
}  // namespace gguf_offload
