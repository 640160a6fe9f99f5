#include "kernels/moe/expert_cache_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

class ExpertCacheCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// A pool that some layers share, and three matrices of each expert in mapped host memory.
class Cache {
 public:
  // Odd sizes, so that experts begin at all addresses modulo 16; the last is larger than what a
  // round of a fill copies.
  static constexpr int64_t kBytes[3] = {17, 1000, 300001};

  Cache(int layers, int experts, int slots)
      : layers_(layers),
        experts_(experts),
        slots_(slots),
        owner_(std::vector<int32_t>(slots, -1)),
        slot_of_(std::vector<int32_t>(layers * experts, -1)),
        last_use_(std::vector<unsigned long long>(slots, 0)),
        clock_(std::vector<unsigned long long>(1, 0)),
        fills_(slots),
        count_(1),
        begun_(kMaxFillParts),
        counts_(std::vector<ExpertCounts>(layers)) {
    stride_ = 0;
    for (int i = 0; i < 3; ++i) {
      offsets_[i] = stride_;
      stride_ += ExpertSlotBytes(kBytes[i]);
    }
    memory_ = std::make_unique<DeviceArray<uint8_t>>(stride_ * slots);
    std::mt19937 random(1);
    for (int i = 0; i < 3; ++i) {
      void* host = nullptr;
      const int64_t bytes = layers * experts * kBytes[i];
      CheckCuda(cudaHostAlloc(&host, bytes + 64, cudaHostAllocMapped));
      host_[i] = static_cast<uint8_t*>(host);
      for (int64_t b = 0; b < bytes + 64; ++b) host_[i][b] = static_cast<uint8_t>(random());
      void* device = nullptr;
      CheckCuda(cudaHostGetDevicePointer(&device, host, 0));
      // At an odd address.
      mapped_[i] = static_cast<uint8_t*>(device) + 16 + 3 * i;
    }
  }
  ~Cache() {
    for (uint8_t* host : host_) cudaFreeHost(host);
  }

  // Resolves and fills what `chosen` wants in `layer`, and checks that it is there. Returns the
  // number of experts that were fetched.
  int Use(int layer, const std::vector<int32_t>& chosen, bool check_bytes) {
    DeviceArray<int32_t> device_chosen(chosen);
    const ChosenExperts choice{device_chosen.data(), nullptr, static_cast<int>(chosen.size()), 1};
    ExpertSource sources[3];
    for (int i = 0; i < 3; ++i) {
      sources[i] = {mapped_[i] + layer * experts_ * kBytes[i], kBytes[i], offsets_[i]};
    }
    ExpertFills fills{fills_.data(), count_.data(), begun_.data()};
    if (flipped_ != 0) told_.AddTo(fills);
    const std::vector<int32_t> missing = MissingOf(layer, chosen);
    ResolveExperts(choice, nullptr,
                   {slots_, owner_.data(), last_use_.data(), clock_.data(), slot_of_.data()}, layer,
                   experts_, fills, counts_.data() + layer, 100, nullptr);
    if (flipped_ != 0) FetchTold(sources);
    if (check_bytes) {
      const int most = std::min<int>(slots_, chosen.size());
      const FillPart parts[] = {
          {.number = 0, .end = 1},
          {.number = 1, .first = 1, .end = most, .end_matrix = 2},
          {.number = 2, .first = 1, .end = most, .first_matrix = 2, .end_byte = kBytes[2] / 2},
          {.number = 3, .first = 1, .end = most, .first_matrix = 2, .first_byte = kBytes[2] / 2}};
      for (const FillPart& part : parts) {
        FillSlots(fills, part, sources, memory_->data(), stride_, nullptr);
      }
    }
    CheckCuda(cudaGetLastError());
    const std::vector<ExpertFill> fetched = fills_.ToHost();
    for (size_t i = 0; i < missing.size(); ++i) EXPECT_EQ(fetched[i].expert, missing[i]);
    const std::vector<int32_t> slot_of = slot_of_.ToHost(), owner = owner_.ToHost();
    const std::vector<uint8_t> bytes = check_bytes ? memory_->ToHost() : std::vector<uint8_t>();
    std::set<int> used;
    for (const int expert : chosen) {
      if (expert < 0) continue;
      const int slot = slot_of[layer * experts_ + expert];
      EXPECT_GE(slot, 0);
      EXPECT_LT(slot, slots_);
      EXPECT_EQ(owner[slot], layer * experts_ + expert);
      used.insert(slot);
      for (int i = 0; i < 3 && check_bytes; ++i) {
        const uint8_t* from = sources[i].data + expert * kBytes[i];
        const uint8_t* got =
            &bytes[slot * stride_ + offsets_[i]] + (reinterpret_cast<uintptr_t>(from) & 15);
        const auto same = [this](uint8_t a, uint8_t b) { return a == (b ^ flipped_); };
        EXPECT_TRUE(std::equal(from, from + kBytes[i], got, same)) << expert << " " << i;
      }
    }
    EXPECT_EQ(used.size(), std::set<int>(chosen.begin(), chosen.end()).size() -
                               std::count(chosen.begin(), chosen.end(), -1));
    // Nobody else thinks that he has a slot.
    EXPECT_EQ(std::count_if(slot_of.begin(), slot_of.end(), [](int s) { return s >= 0; }),
              std::count_if(owner.begin(), owner.end(), [](int o) { return o >= 0; }));
    return count_.ToHost()[0];
  }
  std::vector<ExpertCounts> counts() const { return counts_.ToHost(); }
  // From now on experts lie by themselves, where the host has put them, with all bits flipped.
  void LetTheHostFetch() { flipped_ = 0xff; }

 private:
  // What the device and the host tell each other.
  struct Told {
    Told() { CheckCuda(cudaHostAlloc(&memory, sizeof(Mapped), cudaHostAllocMapped)); }
    ~Told() { cudaFreeHost(memory); }
    struct Mapped {
      ExpertFill fills[64];
      int32_t count;
      const uint8_t* entries[64];
    };
    Mapped& mapped() { return *static_cast<Mapped*>(memory); }
    void AddTo(ExpertFills& fills) {
      void* device = nullptr;
      CheckCuda(cudaHostGetDevicePointer(&device, memory, 0));
      Mapped& on_device = *static_cast<Mapped*>(device);
      fills.told_fills = on_device.fills;
      fills.told_count = &on_device.count;
      fills.entries = on_device.entries;
    }
    void* memory = nullptr;
  };

  // Those that have no slot, in the order in which pairs ask for them.
  std::vector<int32_t> MissingOf(int layer, const std::vector<int32_t>& chosen) {
    const std::vector<int32_t> slot_of = slot_of_.ToHost();
    std::vector<int32_t> missing;
    for (const int32_t expert : chosen) {
      if (expert < 0 || slot_of[layer * experts_ + expert] >= 0) continue;
      if (std::count(missing.begin(), missing.end(), expert) == 0) missing.push_back(expert);
    }
    return missing;
  }

  // Gives each missing expert an entry.
  void FetchTold(const ExpertSource (&sources)[3]) {
    CheckCuda(cudaDeviceSynchronize());
    EXPECT_EQ(told_.mapped().count, count_.ToHost()[0]);
    const std::vector<ExpertFill> fills = fills_.ToHost();
    for (int f = 0; f < told_.mapped().count; ++f) {
      EXPECT_EQ(told_.mapped().fills[f].expert, fills[f].expert);
      EXPECT_EQ(told_.mapped().fills[f].slot, fills[f].slot);
      void* entry = nullptr;
      CheckCuda(cudaHostAlloc(&entry, stride_, cudaHostAllocMapped));
      entries_.emplace_back(static_cast<uint8_t*>(entry), cudaFreeHost);
      for (int i = 0; i < 3; ++i) {
        const uint8_t* from = sources[i].data + fills[f].expert * kBytes[i];
        uint8_t* const to =
            static_cast<uint8_t*>(entry) + offsets_[i] + (reinterpret_cast<uintptr_t>(from) & 15);
        for (int64_t b = 0; b < kBytes[i]; ++b) to[b] = from[b] ^ flipped_;
      }
      CheckCuda(cudaHostGetDevicePointer(&entry, entry, 0));
      told_.mapped().entries[f] = static_cast<const uint8_t*>(entry);
    }
  }

  uint8_t flipped_ = 0;
  Told told_;
  std::vector<std::shared_ptr<uint8_t>> entries_;
  const int layers_, experts_, slots_;
  DeviceArray<int32_t> owner_, slot_of_;
  DeviceArray<unsigned long long> last_use_, clock_;
  DeviceArray<ExpertFill> fills_;
  DeviceArray<int32_t> count_, begun_;
  DeviceArray<ExpertCounts> counts_;
  int64_t offsets_[3], stride_;
  std::unique_ptr<DeviceArray<uint8_t>> memory_;
  uint8_t* host_[3];
  uint8_t* mapped_[3];
};

TEST_F(ExpertCacheCudaTest, FetchedExpertsAreWholeWhereverTheyLie) {
  Cache cache(2, 9, 6);
  EXPECT_EQ(cache.Use(0, {3, 8, -1, 3, 0}, true), 3);
  EXPECT_EQ(cache.Use(0, {3, 1, 8}, true), 1);
  EXPECT_EQ(cache.Use(1, {3, 1}, true), 2);
  EXPECT_EQ(cache.Use(0, {8, 2, 3, 4, 5, 6}, true), 4);
  EXPECT_EQ(cache.Use(1, {7, 2, 3, 4, 5, 6}, true), 6);
  const std::vector<ExpertCounts> counts = cache.counts();
  EXPECT_EQ(counts[0].misses, 8u);
  EXPECT_EQ(counts[0].hits, 4u);
  EXPECT_EQ(counts[0].bytes, 800u);
  EXPECT_EQ(counts[1].misses, 8u);
  EXPECT_EQ(counts[1].hits, 0u);
}

TEST_F(ExpertCacheCudaTest, ExpertsAreTakenFromWhereTheHostHasPutThem) {
  Cache cache(2, 9, 6);
  cache.LetTheHostFetch();
  EXPECT_EQ(cache.Use(0, {3, 8, -1, 3, 0}, true), 3);
  EXPECT_EQ(cache.Use(0, {3, 8}, true), 0);
  EXPECT_EQ(cache.Use(1, {7, 2, 3, 4, 5, 6}, true), 6);
  EXPECT_EQ(cache.Use(0, {3, 1, 8}, true), 3);
}

// Against slots that the host keeps account of.
TEST_F(ExpertCacheCudaTest, TheLeastRecentlyUsedMakeRoom) {
  constexpr int kExperts = 300, kSlots = 40;
  Cache cache(1, kExperts, kSlots);
  struct Slot {
    int used = 0, index = 0, expert = -1;
  };
  std::vector<Slot> slots(kSlots);
  for (int i = 0; i < kSlots; ++i) slots[i].index = i;
  std::mt19937 random(5);
  std::geometric_distribution<int> skewed(0.02);
  size_t hits = 0, misses = 0;
  for (int call = 1; call <= 200; ++call) {
    const size_t count = 1 + random() % 20;
    std::set<int> wanted;
    while (wanted.size() < count) wanted.insert(skewed(random) % kExperts);
    std::vector<int> missing;
    for (int expert : wanted) {
      const auto slot = std::find_if(slots.begin(), slots.end(),
                                     [&](const Slot& s) { return s.expert == expert; });
      if (slot == slots.end()) {
        missing.push_back(expert);
      } else {
        slot->used = call;
      }
    }
    std::sort(slots.begin(), slots.end(), [](const Slot& a, const Slot& b) {
      return std::tuple(a.used, a.index) < std::tuple(b.used, b.index);
    });
    for (size_t i = 0; i < missing.size(); ++i) {
      slots[i].used = call;
      slots[i].expert = missing[i];
    }
    EXPECT_EQ(cache.Use(0, {wanted.begin(), wanted.end()}, false),
              static_cast<int>(missing.size()));
    hits += wanted.size() - missing.size();
    misses += missing.size();
  }
  EXPECT_GT(hits, misses / 2);
  EXPECT_EQ(cache.counts()[0].hits, hits);
  EXPECT_EQ(cache.counts()[0].misses, misses);
}

// State of a pool, for calls that do not copy.
struct PoolState {
  static constexpr int kSlots = 20;

  explicit PoolState(int experts)
      : slot_of(std::vector<int32_t>(experts, -1)),
        owner(std::vector<int32_t>(kSlots, -1)),
        last_use(std::vector<unsigned long long>(kSlots, 0)),
        clock(std::vector<unsigned long long>(1, 0)),
        fills(std::vector<ExpertFill>(kSlots)),
        count(1),
        begun(kMaxFillParts),
        counts(std::vector<ExpertCounts>(1)) {}

  void Resolve(const ChosenExperts& chosen, const RouterScores* scores, int experts) {
    ResolveExperts(chosen, scores,
                   {kSlots, owner.data(), last_use.data(), clock.data(), slot_of.data()}, 0,
                   experts, {fills.data(), count.data(), begun.data()}, counts.data(), 10, nullptr);
  }

  DeviceArray<int32_t> slot_of, owner;
  DeviceArray<unsigned long long> last_use, clock;
  DeviceArray<ExpertFill> fills;
  DeviceArray<int32_t> count, begun;
  DeviceArray<ExpertCounts> counts;
};

// With the choice in the same launch, all is as with two.
TEST_F(ExpertCacheCudaTest, ChoosesAndResolves) {
  using enum ExpertGating;
  for (const RoutingRule& rule :
       {RoutingRule{.experts = 60, .used = 4},
        RoutingRule{.experts = 128, .used = 8, .normalize = true},
        RoutingRule{.experts = 33, .used = 4, .gating = kSoftmaxOfChosen},
        RoutingRule{.experts = 20, .used = 20, .gating = kSigmoid},
        RoutingRule{.experts = 12, .used = 6, .groups = 4, .used_groups = 2},
        RoutingRule{.experts = 1, .used = 1},
        RoutingRule{.experts = 256,
        .used = 8,
        .gating = kSigmoid,
        .normalize = true,
        .scale = 2.5f,
        .groups = 8,
        .used_groups = 4}}) {
    SCOPED_TRACE(rule.experts);
    ASSERT_TRUE(CanChooseAndResolve(rule, 1));
    EXPECT_FALSE(CanChooseAndResolve(rule, 2));
    PoolState twice(rule.experts), once(rule.experts);
    std::mt19937 random(rule.experts);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> bias(rule.experts), logits(rule.experts);
    for (float& value : bias) value = 0.1f * normal(random);
    DeviceArray<float> device_bias(bias);
    for (int step = 0; step < 12; ++step) {
      SCOPED_TRACE(step);
      if (step % 3 != 2) {  // or the last one's again
        for (float& value : logits) value = normal(random);
      }
      // Equals, and what is not finite.
      constexpr float kOdd[] = {0.0f,
                                -0.0f,
                                1.0f,
                                std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()};
      if (step == 9 || step == 10) {
        for (float& value : logits) value = kOdd[random() % (step == 9 ? 3 : 6)];
      }
      DeviceArray<float> device_logits(logits);
      DeviceArray<int32_t> position(std::vector<int32_t>(1, step == 6 ? -1 : step));
      const RouterScores scores = {device_logits.data(), rule.experts, device_bias.data(),
                                   position.data(), rule};
      DeviceArray<int32_t> experts[2] = {DeviceArray<int32_t>(rule.used),
                                         DeviceArray<int32_t>(rule.used)};
      DeviceArray<float> weights[2] = {DeviceArray<float>(rule.used),
                                       DeviceArray<float>(rule.used)};
      const ChosenExperts first = {experts[0].data(), weights[0].data(), 1, rule.used};
      ChooseExperts(scores, first, nullptr);
      twice.Resolve(first, nullptr, rule.experts);
      once.Resolve({experts[1].data(), weights[1].data(), 1, rule.used}, &scores, rule.experts);
      CheckCuda(cudaGetLastError());
      EXPECT_EQ(experts[0].ToHost(), experts[1].ToHost());
      // Also of weights that are not numbers.
      const std::vector<float> of_two = weights[0].ToHost(), of_one = weights[1].ToHost();
      EXPECT_EQ(std::memcmp(of_two.data(), of_one.data(), 4 * of_one.size()), 0);
      EXPECT_EQ(twice.slot_of.ToHost(), once.slot_of.ToHost());
      EXPECT_EQ(twice.owner.ToHost(), once.owner.ToHost());
      EXPECT_EQ(twice.last_use.ToHost(), once.last_use.ToHost());
      const int fills = twice.count.ToHost()[0];
      ASSERT_EQ(fills, once.count.ToHost()[0]);
      // No token, or the last one's choice again.
      if (step == 6 || step % 3 == 2) {
        EXPECT_EQ(fills, 0);
      }
      const std::vector<ExpertFill> a = twice.fills.ToHost(), b = once.fills.ToHost();
      for (int i = 0; i < fills; ++i) {
        EXPECT_EQ(a[i].expert, b[i].expert);
        EXPECT_EQ(a[i].slot, b[i].slot);
      }
    }
    EXPECT_GT(once.counts.ToHost()[0].misses, 0u);
    EXPECT_EQ(once.counts.ToHost()[0].misses, twice.counts.ToHost()[0].misses);
    EXPECT_EQ(once.counts.ToHost()[0].hits, twice.counts.ToHost()[0].hits);
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
