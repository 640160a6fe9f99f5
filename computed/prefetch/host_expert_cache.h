// Single experts of a model whose weights come over the network, in the host's memory: those that
// were used last. Which ones a step needs is known when its router has chosen; those that are not
// here are then fetched, all with one read, into the entries that were not used for the longest
// time.
//
//   auto cache = HostExpertCache::Create(source, *PlanHostExperts(...), memory);
//   cache->BeginStep(deadline);
//   cache->Fetch(layer, {3, 17}, entries);  // entries[0]: expert 3's matrices (HostExpertPlan)
#ifndef COMPUTED_PREFETCH_HOST_EXPERT_CACHE_H_
#define COMPUTED_PREFETCH_HOST_EXPERT_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "computed/placement/host_expert_plan.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// Thread safe; calls of Fetch wait for each other.
class HostExpertCache {
 public:
  // What has happened to a layer's experts since the start.
  struct Counters {
    uint64_t hits = 0;    // experts that were here when they were wanted
    uint64_t misses = 0;  // experts that were fetched
    uint64_t bytes = 0;   // of these
  };

  // `memory`: plan.bytes bytes, aligned to 16. `source` must outlive the cache.
  HostExpertCache(WeightSource& source, HostExpertPlan plan, std::shared_ptr<uint8_t> memory);

  const HostExpertPlan& plan() const { return plan_; }
  // (plan().bytes) where all entries are.
  const uint8_t* memory() const { return memory_.get(); }

  // A step begins, whose fetches may wait until `deadline`.
  void BeginStep(absl::Time deadline);

  // Brings different experts of a layer, at most plan().EntriesOf(layer), and says where they are:
  // `entries` has as many elements. They stay there until the next call, which takes no entry that
  // it wants itself. Errors: INVALID_ARGUMENT (no such expert, or too many), whatever the source
  // says (DEADLINE_EXCEEDED, UNAVAILABLE, DATA_LOSS, ...); `entries` are then undefined, what was
  // here before may have left, and what was to come has not.
  absl::Status Fetch(int layer, std::span<const int32_t> experts,
                     std::span<const uint8_t*> entries);

  // (layers) Does not wait for fetches.
  std::vector<Counters> counters() const;

 private:
  struct Entry {
    uint8_t* memory = nullptr;
    int owner = -1;  // whose it is, an index into entry_of_; -1: nobody's
    std::list<int>::iterator age;
  };
  // Entries of a class, the one that was not used for the longest time first.
  using Ages = std::list<int>;

  absl::Status Check(int layer, std::span<const int32_t> experts) const;
  // Gives the oldest entry of the layer's class to the expert.
  int Replace(int layer, int expert) ABSL_EXCLUSIVE_LOCKS_REQUIRED(fetching_);
  void AddRanges(int layer, int expert, uint8_t* entry,
                 std::vector<WeightSource::Range>& ranges) const;

  WeightSource& source_;
  const HostExpertPlan plan_;
  const std::shared_ptr<uint8_t> memory_;

  absl::Mutex fetching_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(fetching_);
  std::vector<Ages> ages_ ABSL_GUARDED_BY(fetching_);     // (classes)
  std::vector<int> entry_of_ ABSL_GUARDED_BY(fetching_);  // (layers, experts) or -1

  mutable absl::Mutex mutex_;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::vector<Counters> counters_ ABSL_GUARDED_BY(mutex_);  // (layers)
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_HOST_EXPERT_CACHE_H_
