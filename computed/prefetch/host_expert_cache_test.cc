#include "computed/prefetch/host_expert_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "computed/prefetch/testing/plain_file_source.h"

namespace gguf_offload {
namespace {

constexpr int kExperts = 12, kUsed = 3;

// Three layers with experts between two without; those of the last are smaller. An expert's
// matrices have different sizes, none a multiple of 16.
ModelTensors Tensors() {
  ModelTensors tensors;
  tensors.groups.resize(7);
  uint64_t next = 40;
  const auto add = [&](int layer, TensorId id, uint64_t bytes) {
    tensors.groups[tensors.layer_group(layer)].push_back({.id = id,
                                                          .type = quant::TensorType::kF32,
                                                          .columns = 4,
                                                          .rows = 4,
                                                          .matrices = kExperts,
                                                          .shard = layer == 2 ? 1u : 0u,
                                                          .offset = next,
                                                          .bytes = kExperts * bytes});
    next = (next + kExperts * bytes + 7) / 8 * 8;
  };
  for (int layer = 1; layer < 4; ++layer) {
    add(layer, kExpertDown, layer == 3 ? 17 : 1000);
    add(layer, kExpertGate, layer == 3 ? 30 : 777);
    add(layer, kExpertUp, layer == 3 ? 30 : 778);
  }
  return tensors;
}

class HostExpertCacheTest : public ::testing::Test {
 protected:
  // With room for so many experts of the larger class.
  void Create(int entries) {
    auto plan = PlanHostExperts(tensors_, kExperts, kUsed, 1 << 20);
    ASSERT_TRUE(plan.ok()) << plan.status();
    plan->classes[0].entries = entries;
    void* memory = std::aligned_alloc(256, 1 << 20);
    cache_ = std::make_unique<HostExpertCache>(
        source_, *plan, std::shared_ptr<uint8_t>(static_cast<uint8_t*>(memory), std::free));
  }

  // Fetches and checks that each expert is there whole.
  absl::Status Fetch(int layer, const std::vector<int32_t>& experts) {
    std::vector<const uint8_t*> entries(experts.size());
    const absl::Status status = cache_->Fetch(layer, experts, entries);
    if (!status.ok()) return status;
    for (const ModelTensor& tensor : tensors_.groups[tensors_.layer_group(layer)]) {
      const int matrix = ExpertMatrixOf(tensor);
      const uint64_t bytes = tensor.bytes / kExperts;
      for (size_t i = 0; i < experts.size(); ++i) {
        const uint64_t offset = tensor.offset + experts[i] * bytes;
        const uint8_t* got = entries[i] + cache_->plan().OffsetOf(layer, experts[i], matrix);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(got) % 16, offset % 16);
        EXPECT_EQ(source_.contents(tensor.shard)
                      .compare(offset, bytes, reinterpret_cast<const char*>(got), bytes),
                  0);
      }
    }
    EXPECT_EQ(std::set<const uint8_t*>(entries.begin(), entries.end()).size(), experts.size());
    return status;
  }
  // The experts that a fetch asks the source for.
  std::vector<int32_t> Missing(int layer, const std::vector<int32_t>& experts) {
    std::vector<int32_t> missing;
    const uint64_t before = cache_->counters()[layer].misses;
    absl::Status status;
    std::thread fetch([&] { status = Fetch(layer, experts); });
    const PlainFileSource::Request request = source_.TakeRequest();
    const HostExpertPlan::Layer& l = cache_->plan().layers[layer];
    for (const auto& range : request.ranges) {
      const uint64_t expert = (range.offset - l.file_offsets[0]) / l.matrix_bytes[0];
      if (expert < kExperts) missing.push_back(static_cast<int32_t>(expert));
    }
    EXPECT_EQ(request.ranges.size(), 3 * missing.size());
    source_.Fill(request);
    request.done(absl::OkStatus());
    fetch.join();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(cache_->counters()[layer].misses - before, missing.size());
    return missing;
  }

  using Experts = std::vector<int32_t>;
  PlainFileSource source_{{100000, 100000}};
  const ModelTensors tensors_ = Tensors();
  std::unique_ptr<HostExpertCache> cache_;
};

TEST_F(HostExpertCacheTest, FetchesWhatIsMissingWithOneReadAndKeepsWhatWasUsedLast) {
  source_.StopSharing();
  Create(4);
  EXPECT_EQ(Missing(1, {7, 0, 11}), (Experts{7, 0, 11}));
  EXPECT_TRUE(Fetch(1, {11, 7}).ok());          // nothing is asked for
  EXPECT_EQ(Missing(1, {7, 5}), (Experts{5}));  // the last free entry
  // 0 was not used for the longest time, then 11.
  EXPECT_EQ(Missing(2, {3}), (Experts{3}));
  EXPECT_TRUE(Fetch(1, {11, 5}).ok());
  EXPECT_EQ(Missing(1, {0, 1}), (Experts{0, 1}));
  EXPECT_TRUE(Fetch(1, {11, 5, 0, 1}).ok());
  // Other sizes have entries of their own.
  EXPECT_EQ(Missing(3, {2, 9, 4}), (Experts{2, 9, 4}));
  EXPECT_TRUE(Fetch(1, {11, 5, 0, 1}).ok());
  EXPECT_TRUE(Fetch(3, {4, 2, 9}).ok());
  const std::vector<HostExpertCache::Counters> counters = cache_->counters();
  ASSERT_EQ(counters.size(), 5u);
  EXPECT_EQ(counters[0].hits + counters[0].misses, 0u);
  EXPECT_EQ(counters[1].hits, 2u + 1 + 2 + 4 + 4);
  EXPECT_EQ(counters[1].misses, 6u);
  EXPECT_EQ(counters[1].bytes, 6u * (1000 + 777 + 778));
  EXPECT_EQ(counters[2].misses, 1u);
  EXPECT_EQ(counters[3].hits, 3u);
  EXPECT_EQ(counters[3].bytes, 3u * (17 + 30 + 30));
}

// However old they are, those that a call wants do not make room for what it misses.
TEST_F(HostExpertCacheTest, WhatACallWantsStaysWhileItFetches) {
  Create(4);
  EXPECT_EQ(Missing(1, {0, 1, 2, 3}).size(), 4u);
  EXPECT_EQ(Missing(1, {4, 0}), (Experts{4}));
  EXPECT_EQ(Missing(1, {5, 6, 2, 3}), (Experts{5, 6}));
  EXPECT_TRUE(Fetch(1, {2, 3, 5, 6}).ok());
}

TEST_F(HostExpertCacheTest, AFailedFetchLeavesNothingBehindAndTheNextOneWorks) {
  Create(4);
  EXPECT_EQ(Missing(1, {0, 1, 2}).size(), 3u);
  for (const absl::Status& said :
       {absl::DeadlineExceededError("no daemon"), absl::UnavailableError("the daemon is away"),
        absl::DataLossError("wrong checksum")}) {
    absl::Status status;
    std::thread fetch([&] { status = Fetch(1, {2, 8, 9}); });
    const PlainFileSource::Request request = source_.TakeRequest();
    EXPECT_EQ(request.ranges.size(), 6u);
    source_.Fill(request);  // some of it may have arrived
    request.ranges[0].destination[0] ^= 1;
    request.done(said);
    fetch.join();
    EXPECT_EQ(status, said);
  }
  EXPECT_TRUE(Fetch(1, {2}).ok());
  EXPECT_EQ(Missing(1, {2, 8, 9}), (Experts{8, 9}));
  EXPECT_EQ(cache_->counters()[1].misses, 5u);  // those that came
}

TEST_F(HostExpertCacheTest, WaitsUntilTheStepsDeadline) {
  Create(4);
  const absl::Time deadline = absl::Now() + absl::Hours(1);
  cache_->BeginStep(deadline);
  std::thread fetch([&] { EXPECT_FALSE(Fetch(1, {2}).ok()); });
  const PlainFileSource::Request request = source_.TakeRequest();
  EXPECT_EQ(request.deadline, deadline);
  EXPECT_EQ(cache_->counters()[1].misses, 0u);  // does not wait
  request.done(absl::DeadlineExceededError("too late"));
  fetch.join();
}

TEST_F(HostExpertCacheTest, RefusesWhatItCannotHold) {
  Create(4);
  for (const auto& [layer, experts] : {std::pair<int, Experts>{1, {0, 1, 2, 3, 4}},
                                       {1, {kExperts}},
                                       {1, {-1}},
                                       {0, {1}},
                                       {-1, {1}},
                                       {5, {1}}}) {
    EXPECT_EQ(Fetch(layer, experts).code(), absl::StatusCode::kInvalidArgument);
  }
}

// Against a cache that the test keeps account of.
TEST_F(HostExpertCacheTest, TheLeastRecentlyUsedMakeRoom) {
  source_.AnswerAtOnce();
  Create(7);
  std::vector<std::pair<int, int>> ages;  // (layer, expert), the oldest first
  std::mt19937 random(3);
  uint64_t misses = 0;
  for (int call = 0; call < 500; ++call) {
    const int layer = 1 + random() % 2;
    std::set<int32_t> wanted;
    for (int i = 0; i < 4; ++i) wanted.insert(random() % 6);
    const auto use = [&](bool here) {
      for (const int expert : wanted) {
        const auto found = std::find(ages.begin(), ages.end(), std::pair(layer, expert));
        if ((found != ages.end()) != here) continue;
        if (here) ages.erase(found);
        misses += !here;
        ages.emplace_back(layer, expert);
      }
    };
    std::vector<std::pair<int, int>> before = ages;
    use(true);
    use(false);
    if (ages.size() > 7) ages.erase(ages.begin(), ages.end() - 7);
    EXPECT_TRUE(Fetch(layer, {wanted.begin(), wanted.end()}).ok());
    EXPECT_EQ(cache_->counters()[1].misses + cache_->counters()[2].misses, misses);
  }
}

}  // namespace
}  // namespace gguf_offload
