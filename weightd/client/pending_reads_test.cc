#include "weightd/client/pending_reads.h"

#include <gtest/gtest.h>

#include <map>

namespace gguf_offload {
namespace {

constexpr absl::Time kLate = absl::InfiniteFuture();

class PendingReadsTest : public ::testing::Test {
 protected:
  void Add(int name, std::vector<WeightSource::Range> ranges, absl::Time deadline = kLate) {
    reads_.Add(std::move(ranges), deadline, [this, name](absl::Status s) { told_[name] = s; });
  }
  void Tell() {
    for (PendingReads::Finished& finished : reads_.TakeFinished()) finished.done(finished.status);
  }
  // Delivers the next `bytes` bytes of a request as one chunk.
  void Deliver(PendingReads::Request& request, uint64_t bytes, bool intact = true) {
    const PendingReads::Chunk chunk{request.read_id, request.offset, bytes, bytes == request.bytes};
    ASSERT_TRUE(reads_.Expect(chunk).ok());
    reads_.Store(chunk, intact);
    request.offset += bytes;
    request.bytes -= bytes;
    Tell();
  }

  PendingReads reads_{{.piece_bytes = 100, .requested_bytes = 250, .requested_pieces = 4}};
  std::map<int, absl::Status> told_;
  uint8_t memory_[1000];
};

TEST_F(PendingReadsTest, CutsReadsIntoPiecesAndLimitsWhatIsAskedFor) {
  Add(1, {{2, 5000, 230, memory_}, {0, 7, 10, memory_ + 230}});
  auto a = reads_.NextRequest(), b = reads_.NextRequest(), c = reads_.NextRequest();
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->shard, 2u);
  EXPECT_EQ(a->offset, 5000u);
  EXPECT_EQ(a->bytes, 100u);
  EXPECT_EQ(c->offset, 5200u);
  EXPECT_EQ(c->bytes, 30u);
  EXPECT_EQ(*reads_.Expect({a->read_id, 5000, 40, false}), memory_);
  Deliver(*a, 40);
  EXPECT_EQ(*reads_.Expect({a->read_id, 5040, 60, true}), memory_ + 40);
  Deliver(*a, 60);
  auto d = reads_.NextRequest();
  ASSERT_TRUE(d.has_value());
  EXPECT_EQ(d->shard, 0u);
  EXPECT_EQ(*reads_.Expect({b->read_id, 5100, 100, true}), memory_ + 100);
  Deliver(*b, 100);
  Deliver(*c, 30);
  EXPECT_TRUE(told_.empty());
  Deliver(*d, 10);
  EXPECT_TRUE(told_.at(1).ok());
  EXPECT_TRUE(reads_.empty());
}

TEST_F(PendingReadsTest, LimitsPiecesAndBytes) {
  Add(1, {{0, 0, 1000, memory_}});
  EXPECT_TRUE(reads_.NextRequest() && reads_.NextRequest() && reads_.NextRequest());
  EXPECT_FALSE(reads_.NextRequest().has_value());  // 300 of 250 bytes
  PendingReads few({.piece_bytes = 1, .requested_bytes = 1000, .requested_pieces = 2});
  few.Add({{0, 0, 3, memory_}}, kLate, [](absl::Status) {});
  EXPECT_TRUE(few.NextRequest() && few.NextRequest());
  EXPECT_FALSE(few.NextRequest().has_value());
}

TEST_F(PendingReadsTest, AReadOfNothingIsDoneAtOnce) {
  Add(1, {});
  Add(2, {{0, 5, 0, nullptr}});
  Tell();
  EXPECT_TRUE(told_.at(1).ok() && told_.at(2).ok());
}

TEST_F(PendingReadsTest, RefusesChunksThatDoNotComeNext) {
  EXPECT_TRUE(absl::IsInvalidArgument(reads_.Expect({1, 0, 1, false}).status()));
  Add(1, {{0, 50, 20, memory_}});
  const auto request = reads_.NextRequest();
  const uint64_t id = request->read_id;
  for (const PendingReads::Chunk& chunk :
       std::vector<PendingReads::Chunk>{{id + 1, 50, 20, true},
                                        {id, 51, 19, true},
                                        {id, 50, 21, true},
                                        {id, 50, 20, false},
                                        {id, 50, 10, true},
                                        {id, 50, 0, false},
                                        {id, 50, UINT64_MAX, true}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(reads_.Expect(chunk).status()));
  }
}

TEST_F(PendingReadsTest, ResumesWithTheFirstByteThatHasNotArrived) {
  Add(1, {{0, 0, 150, memory_}});
  auto a = reads_.NextRequest();
  ASSERT_TRUE(reads_.NextRequest().has_value());
  Deliver(*a, 30);
  reads_.StreamLost();
  auto again = reads_.NextRequest(), rest = reads_.NextRequest();
  EXPECT_EQ(again->offset, 30u);
  EXPECT_EQ(again->bytes, 70u);
  EXPECT_NE(again->read_id, a->read_id);
  EXPECT_EQ(*reads_.Expect({again->read_id, 30, 70, true}), memory_ + 30);
  Deliver(*again, 70);
  Deliver(*rest, 50);
  EXPECT_TRUE(told_.at(1).ok());
}

TEST_F(PendingReadsTest, AWrongChecksumIsAskedForOnceMore) {
  Add(1, {{0, 0, 100, memory_}});
  auto a = reads_.NextRequest();
  Deliver(*a, 20);
  Deliver(*a, 30, /*intact=*/false);
  Deliver(*a, 50);
  EXPECT_TRUE(told_.empty());
  auto again = reads_.NextRequest();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->offset, 20u);
  EXPECT_EQ(again->bytes, 30u);
  EXPECT_EQ(*reads_.Expect({again->read_id, 20, 30, true}), memory_ + 20);
  Deliver(*again, 30);
  EXPECT_TRUE(told_.at(1).ok());
}

TEST_F(PendingReadsTest, AWrongChecksumTwiceIsDataLoss) {
  Add(1, {{0, 0, 100, memory_}});
  Add(2, {{0, 0, 50, memory_}});
  auto a = reads_.NextRequest(), b = reads_.NextRequest();
  Deliver(*a, 100, false);
  auto again = reads_.NextRequest();
  Deliver(*b, 50);
  EXPECT_TRUE(told_.at(2).ok());
  Deliver(*again, 100, false);
  EXPECT_TRUE(absl::IsDataLoss(told_.at(1)));
  EXPECT_TRUE(reads_.empty());
}

TEST_F(PendingReadsTest, ExpiredReadsAreToldAndTheirBytesUnwanted) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  Add(1, {{0, 0, 200, memory_}}, now + absl::Seconds(1));
  Add(2, {{0, 0, 10, memory_ + 500}}, now + absl::Seconds(9));
  auto a = reads_.NextRequest();
  EXPECT_EQ(reads_.NextDeadline(), now + absl::Seconds(1));
  reads_.Expire(now, absl::OkStatus());
  Tell();
  EXPECT_TRUE(told_.empty());
  reads_.Expire(now + absl::Seconds(1), absl::UnavailableError("no daemon"));
  Tell();
  EXPECT_TRUE(absl::IsDeadlineExceeded(told_.at(1)));
  EXPECT_EQ(*reads_.Expect({a->read_id, 0, 100, true}), nullptr);
  Deliver(*a, 100);
  auto b = reads_.NextRequest();
  EXPECT_EQ(b->bytes, 10u);
  Deliver(*b, 10);
  EXPECT_TRUE(told_.at(2).ok());
}

TEST_F(PendingReadsTest, FailsAll) {
  Add(1, {{0, 0, 200, memory_}});
  Add(2, {{0, 0, 10, memory_}});
  reads_.NextRequest();
  reads_.FailAll(absl::CancelledError("stop"));
  Tell();
  EXPECT_TRUE(absl::IsCancelled(told_.at(1)) && absl::IsCancelled(told_.at(2)));
  EXPECT_TRUE(reads_.empty());
  EXPECT_FALSE(reads_.NextRequest().has_value());
}

}  // namespace
}  // namespace gguf_offload
