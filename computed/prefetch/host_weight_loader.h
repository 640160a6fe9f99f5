// Weights in the host's memory.
//
// What the weight source shares is used in place. What it streams is fetched: resident groups once,
// beginning when the loader is created; streamed ones through a ring of slots, the next group's
// bytes on their way while the group before computes, wrapping over the end of a step to the first
// streamed layer of the next.
//
// Where experts are cached, all else is resident. Small steps take experts from the cache; those of
// more tokens than it is for stream whole banks of experts through the ring, which then rests until
// the next such step.
#ifndef COMPUTED_PREFETCH_HOST_WEIGHT_LOADER_H_
#define COMPUTED_PREFETCH_HOST_WEIGHT_LOADER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/placement.h"
#include "computed/prefetch/host_expert_cache.h"
#include "computed/prefetch/weight_loader.h"
#include "computed/runtime/host_buffer.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

class HostWeightLoader : public WeightLoader {
 public:
  // The arguments must outlive the loader. `experts` is null unless the placement caches them.
  static absl::StatusOr<std::unique_ptr<WeightLoader>> Create(WeightSource& source,
                                                              const ModelTensors& tensors,
                                                              const Placement& placement,
                                                              HostExpertCache* experts);
  // Waits for fetches that are under way.
  ~HostWeightLoader() override;

  // Part p is group p.
  const std::vector<WeightPart>& parts() const override { return parts_; }
  bool IsLarge(int rows) const override {
    return experts_ != nullptr && !experts_->plan().TakesStepOf(rows);
  }
  void BeginStep(int rows, bool with_head, absl::Time deadline) override;
  absl::StatusOr<const LayerWeights*> Acquire(int group, absl::Time deadline) override;
  void Release(int group) override;
  const LayerWeights& HostVectors(int group) const override { return weights_[group]; }
  // Of the fetches so far, while any was under way.
  double bytes_per_second() const override;
  FetchCounters fetch_counters() const override;
  uint64_t memory_bytes() const override { return memory_bytes_; }

 private:
  enum class FetchState { kNone, kUnderWay, kDone };
  // Where the fetched matrices of a group go: memory of its own, or a slot of the ring.
  struct Destination {
    HostBuffer memory;
    int group = -1;  // whose bytes it holds or is getting
    FetchState state = FetchState::kNone;
    absl::Status status;  // of the last fetch, once done
  };

  HostWeightLoader(WeightSource& source, const ModelTensors& tensors, const Placement& placement,
                   HostExpertCache* experts)
      : source_(source), tensors_(tensors), placement_(placement), experts_(experts) {}
  absl::Status AllocateMemory();
  absl::Status LoadVectors();
  void BindCachedExperts();
  void StartFetch(int group, Destination& destination, absl::Time deadline);
  // Waits until `destination` holds `group`, fetching it (again) if need be.
  absl::Status WaitFor(int group, Destination& destination, absl::Time deadline);
  // The ring slot that holds or is to hold the streamed group `group`.
  Destination& RingSlot(int group);
  // The matrices of a group that pass through the ring, or those that stay.
  std::vector<const ModelTensor*> Matrices(int group, bool streamed) const;
  // Points these at `base`, where they lie one after the other.
  void PointAt(int group, bool streamed, const uint8_t* base);
  // Whether the step in progress streams the group's part that passes through the ring.
  bool Streams(int group) const {
    return streamed_index_[group] >= 0 && (experts_ == nullptr || large_);
  }

  WeightSource& source_;
  const ModelTensors& tensors_;
  const Placement& placement_;
  HostExpertCache* const experts_;           // null if experts are not cached
  bool large_ = false;                       // the step in progress streams banks of experts
  std::vector<WeightPart> parts_;            // (groups)
  std::vector<LayerWeights> weights_;        // (groups)
  std::vector<LayerWeights> small_weights_;  // (groups) with experts in the cache
  std::vector<std::vector<float>> vectors_;  // what the vectors in weights_ point to
  std::vector<int> streamed_;                // the groups that pass through the ring, in order
  std::vector<int> streamed_index_;          // (groups) index into streamed_, or -1
  uint64_t memory_bytes_ = 0;

  mutable absl::Mutex mutex_;
  // States are guarded by mutex_; which destination a group has is not, it never changes for
  // resident groups, and the acquiring thread alone turns the ring.
  std::vector<Destination> resident_;  // (groups)
  std::vector<Destination> ring_;      // (ring_slots)
  size_t ring_next_ = 0;               // the slot that the next streamed group goes to
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // The link is busy while fetches are under way.
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time busy_since_ ABSL_GUARDED_BY(mutex_);
  uint64_t waits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration waited_ ABSL_GUARDED_BY(mutex_);
  absl::Duration busy_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_HOST_WEIGHT_LOADER_H_
