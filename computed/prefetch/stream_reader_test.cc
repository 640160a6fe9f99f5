#include "computed/prefetch/stream_reader.h"

#include <gtest/gtest.h>

#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "computed/prefetch/testing/plain_file_source.h"
#include "computed/prefetch/testing/reader_contract.h"

namespace gguf_offload {
namespace {

TEST(StreamReaderTest, KeepsTheContract) {
  PlainFileSource source(ContractShards());
  source.AnswerAtOnce();
  const auto reader = NewStreamReader(source);
  ExpectReaderContract(*reader, source);
}

TEST(StreamReaderTest, AsksForTheRangesUntilTheDeadline) {
  PlainFileSource source({20000, 10000});
  const auto reader = NewStreamReader(source);
  GuardedMemory memory(source);
  const auto first = memory.Range(1, 4097, 100);
  const auto second = memory.Range(0, 5000, 15000);
  const absl::Time deadline = absl::Now() + absl::Hours(1);
  absl::Notification done;
  reader->ReadAsync({first, second}, deadline, [&](absl::Status status) {
    EXPECT_TRUE(status.ok()) << status;
    done.Notify();
  });
  const PlainFileSource::Request request = source.TakeRequest();
  EXPECT_FALSE(done.HasBeenNotified());
  EXPECT_EQ(request.deadline, deadline);
  ASSERT_EQ(request.ranges.size(), 2u);
  EXPECT_EQ(request.ranges[1].shard, 0u);
  EXPECT_EQ(request.ranges[1].offset, 5000u);
  EXPECT_EQ(request.ranges[1].bytes, 15000u);
  EXPECT_EQ(request.ranges[1].destination, second.destination);
  source.Fill(request);
  request.done(absl::OkStatus());
  EXPECT_TRUE(done.HasBeenNotified());
  memory.ExpectFilled();
}

TEST(StreamReaderTest, PassesOnWhatTheSourceSays) {
  PlainFileSource source({20000});
  const auto reader = NewStreamReader(source);
  GuardedMemory memory(source);
  for (const absl::Status& said :
       {absl::DeadlineExceededError("no daemon"), absl::CancelledError("being destroyed"),
        absl::DataLossError("wrong checksum")}) {
    std::thread daemon([&] { source.TakeRequest().done(said); });
    EXPECT_EQ(ReadAll(*reader, {memory.Range(0, 0, 100)}), said);
    daemon.join();
  }
}

TEST(StreamReaderTest, DestructionWaitsForReads) {
  PlainFileSource source({20000});
  auto reader = NewStreamReader(source);
  GuardedMemory memory(source);
  int ended = 0;  // guarded by the reader's end
  for (int i = 0; i < 3; ++i) {
    reader->ReadAsync({memory.Range(0, 100, 10000)}, absl::InfiniteFuture(),
                      [&](absl::Status status) { ended += status.ok(); });
  }
  std::thread daemon([&] {
    for (int i = 0; i < 3; ++i) {
      const PlainFileSource::Request request = source.TakeRequest();
      source.Fill(request);
      request.done(absl::OkStatus());
    }
  });
  reader.reset();
  EXPECT_EQ(ended, 3);
  memory.ExpectFilled();
  daemon.join();
}

}  // namespace
}  // namespace gguf_offload
