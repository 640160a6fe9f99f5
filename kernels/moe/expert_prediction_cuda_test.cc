#include "kernels/moe/expert_prediction_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kBytes = 100;  // of an expert

class ExpertPredictionCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

using Fills = std::vector<std::pair<int, int>>;  // expert, slot

// A layer's slots on the device, and the account that the host keeps of them.
class Cache {
 public:
  Cache(int experts, int slots)
      : experts_(experts),
        slots_(slots),
        owner_(std::vector<int32_t>(slots, -1)),
        slot_of_(std::vector<int32_t>(experts, -1)),
        last_use_(std::vector<unsigned long long>(slots, 0)),
        early_for_(std::vector<unsigned long long>(slots, 0)),
        clock_(std::vector<unsigned long long>(1, 0)),
        fills_(slots),
        count_(std::vector<int32_t>(1, 0)),
        begun_(kMaxFillParts),
        counts_(std::vector<ExpertCounts>(1)),
        expected_(slots) {}

  // Guesses (expert, weight) in rows of `used`; returns what is fetched.
  Fills Guess(const std::vector<int32_t>& chosen, const std::vector<float>& weights, int used,
              int most) {
    DeviceArray<int32_t> device_chosen(chosen);
    DeviceArray<float> device_weights(weights);
    const int rows = static_cast<int>(chosen.size()) / used;
    ResolveGuess({device_chosen.data(), device_weights.data(), rows, used}, most, pool(), 0,
                 experts_, {fills_.data(), count_.data(), begun_.data()}, counts_.data(), kBytes,
                 nullptr);
    CheckCuda(cudaGetLastError());
    const Fills fetched = Fetched();
    EXPECT_EQ(fetched, ExpectGuess(chosen, weights, most));
    CheckAccount();
    return fetched;
  }

  // What the router has then chosen.
  Fills Use(const std::vector<int32_t>& chosen) {
    DeviceArray<int32_t> device_chosen(chosen);
    ResolveExperts({device_chosen.data(), nullptr, static_cast<int>(chosen.size()), 1}, nullptr,
                   pool(), 0, experts_, {fills_.data(), count_.data(), begun_.data()},
                   counts_.data(), kBytes, nullptr);
    CheckCuda(cudaGetLastError());
    const Fills fetched = Fetched();
    EXPECT_EQ(fetched, ExpectUse(chosen));
    CheckAccount();
    return fetched;
  }

  const ExpertCounts& expected() const { return expected_counts_; }

 private:
  struct Slot {
    int expert = -1;
    int last_use = 0;
    int early_for = 0;
  };

  ExpertPool pool() {
    return {slots_,        owner_.data(),   last_use_.data(),
            clock_.data(), slot_of_.data(), early_for_.data()};
  }

  Fills Fetched() {
    Fills fetched;
    const std::vector<ExpertFill> fills = fills_.ToHost();
    for (int i = 0; i < count_.ToHost()[0]; ++i) {
      fetched.emplace_back(fills[i].expert, fills[i].slot);
    }
    return fetched;
  }

  int SlotOf(int expert) const {
    for (int slot = 0; slot < slots_; ++slot) {
      if (expected_[slot].expert == expert) return slot;
    }
    return -1;
  }

  // Slots but for those of `kept`, the longest unused first.
  std::vector<int> Oldest(const std::set<int>& kept) const {
    std::vector<int> order;
    for (int slot = 0; slot < slots_; ++slot) {
      if (kept.count(slot) == 0) order.push_back(slot);
    }
    std::sort(order.begin(), order.end(), [this](int a, int b) {
      return std::tuple(expected_[a].last_use, a) < std::tuple(expected_[b].last_use, b);
    });
    return order;
  }

  Fills ExpectGuess(const std::vector<int32_t>& chosen, const std::vector<float>& weights,
                    int most) {
    std::map<int, float> wishes;
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] < 0) continue;
      const float weight = std::isnan(weights[i]) ? 0.0f : weights[i];
      const auto [wish, is_new] = wishes.emplace(chosen[i], weight);
      if (!is_new) wish->second = std::max(wish->second, weight);
    }
    std::set<int> kept;
    std::vector<std::pair<float, int>> missing;
    for (const auto& [expert, weight] : wishes) {
      const int slot = SlotOf(expert);
      if (slot >= 0) {
        kept.insert(slot);
      } else {
        missing.emplace_back(-weight, expert);
      }
    }
    std::sort(missing.begin(), missing.end());
    const std::vector<int> free = Oldest(kept);
    Fills fills;
    for (size_t i = 0; i < std::min({missing.size(), free.size(), size_t(most)}); ++i) {
      Slot& slot = expected_[free[i]];
      slot.expert = missing[i].second;
      slot.early_for = now_ + 1;
      fills.emplace_back(slot.expert, free[i]);
      ++expected_counts_.early;
      expected_counts_.early_bytes += kBytes;
    }
    return fills;
  }

  Fills ExpectUse(const std::vector<int32_t>& chosen) {
    ++now_;
    std::set<int> wanted, kept;
    std::vector<int> missing;
    for (int expert : chosen) {
      if (expert < 0 || !wanted.insert(expert).second) continue;
      const int slot = SlotOf(expert);
      if (slot < 0) {
        missing.push_back(expert);
        continue;
      }
      kept.insert(slot);
      expected_[slot].last_use = now_;
      ++expected_counts_.hits;
      expected_counts_.early_used += expected_[slot].early_for == now_;
    }
    const std::vector<int> free = Oldest(kept);
    Fills fills;
    for (size_t i = 0; i < missing.size(); ++i) {
      expected_[free[i]].expert = missing[i];
      expected_[free[i]].last_use = now_;
      fills.emplace_back(missing[i], free[i]);
      ++expected_counts_.misses;
      expected_counts_.bytes += kBytes;
    }
    return fills;
  }

  void CheckAccount() {
    std::vector<int32_t> slot_of(experts_, -1), owner;
    for (int slot = 0; slot < slots_; ++slot) {
      owner.push_back(expected_[slot].expert);
      if (owner.back() >= 0) slot_of[owner.back()] = slot;
    }
    EXPECT_EQ(owner_.ToHost(), owner);
    EXPECT_EQ(slot_of_.ToHost(), slot_of);
    EXPECT_EQ(clock_.ToHost()[0], static_cast<unsigned long long>(now_));
    const ExpertCounts counts = counts_.ToHost()[0];
    EXPECT_EQ(counts.hits, expected_counts_.hits);
    EXPECT_EQ(counts.misses, expected_counts_.misses);
    EXPECT_EQ(counts.bytes, expected_counts_.bytes);
    EXPECT_EQ(counts.early, expected_counts_.early);
    EXPECT_EQ(counts.early_used, expected_counts_.early_used);
    EXPECT_EQ(counts.early_bytes, expected_counts_.early_bytes);
  }

  const int experts_, slots_;
  DeviceArray<int32_t> owner_, slot_of_;
  DeviceArray<unsigned long long> last_use_, early_for_, clock_;
  DeviceArray<ExpertFill> fills_;
  DeviceArray<int32_t> count_, begun_;
  DeviceArray<ExpertCounts> counts_;
  std::vector<Slot> expected_;
  int now_ = 0;
  ExpertCounts expected_counts_;
};

TEST_F(ExpertPredictionCudaTest, TheMostWantedComeFirstUpToTheCap) {
  Cache cache(9, 4);
  // The row of a missing token has no experts; expert 3's larger weight counts.
  EXPECT_EQ(cache.Guess({3, 1, -1, -1, 5, 3}, {0.1f, 0.4f, 0, 0, 0.5f, 0.6f}, 2, 2),
            (Fills{{3, 0}, {5, 1}}));
  EXPECT_EQ(cache.Use({3, 7}), (Fills{{7, 1}}));  // 5 was not wanted and goes first
  EXPECT_EQ(cache.expected().early_used, 1u);
  // 3 is there; of equals the first.
  EXPECT_EQ(cache.Guess({3, 2, 4, 1}, {1, 0.5f, 0.5f, 0.5f}, 4, 2), (Fills{{1, 2}, {2, 3}}));
}

// Those that the guess has found stay, even if they are the oldest and there is no other room.
TEST_F(ExpertPredictionCudaTest, WhatTheGuessHasFoundStays) {
  Cache cache(8, 3);
  cache.Use({0});
  cache.Use({1});
  cache.Use({2});
  EXPECT_EQ(cache.Guess({0, 1, 5, 6}, {0.1f, 0.1f, 0.2f, NAN}, 4, 4), (Fills{{5, 2}}));
  EXPECT_EQ(cache.Guess({0, 1, 5, 6}, {0.1f, 0.1f, 0.2f, NAN}, 4, 4), Fills());
  EXPECT_EQ(cache.Use({0, 5, 6}), (Fills{{6, 1}}));
  EXPECT_EQ(cache.expected().early_used, 1u);
}

// Guesses that are often right between uses, with all sizes of caps.
TEST_F(ExpertPredictionCudaTest, AgreesWithTheHostsAccount) {
  constexpr int kExperts = 300, kSlots = 40, kRows = 3, kUsed = 6;
  Cache cache(kExperts, kSlots);
  std::mt19937 random(7);
  std::geometric_distribution<int> skewed(0.02);
  std::uniform_real_distribution<float> weight(0, 1);
  for (int call = 0; call < 60; ++call) {
    std::vector<int32_t> chosen;
    std::vector<float> weights;
    for (int row = 0; row < kRows; ++row) {
      std::set<int> experts;
      while (experts.size() < kUsed) experts.insert(skewed(random) % kExperts);
      chosen.insert(chosen.end(), experts.begin(), experts.end());
      for (int i = 0; i < kUsed; ++i) weights.push_back(std::round(weight(random) * 10) / 10);
    }
    const int most = 1 + static_cast<int>(random() % 8);
    EXPECT_LE(cache.Guess(chosen, weights, kUsed, most).size(), size_t(most));
    for (int32_t& expert : chosen) {
      if (random() % 3 == 0) expert = skewed(random) % kExperts;
    }
    cache.Use(chosen);
  }
  EXPECT_GT(cache.expected().early_used, 20u);
  EXPECT_GT(cache.expected().early, cache.expected().early_used);
}

}  // namespace
}  // namespace gguf_offload::cuda
