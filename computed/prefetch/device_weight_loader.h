// Weights in a GPU's memory: some stay there, the others pass through a ring of slots in every
// step.
//
// A thread of the loader's own puts copies on the device's copy stream, in the order in which steps
// need them; events order them with the operations on the compute stream, and the host waits for
// neither. A streamed part's slot is free as soon as its operations are done; the next part that
// the slot is for is then on its way, over the end of a step to the first parts of the next.
#ifndef COMPUTED_PREFETCH_DEVICE_WEIGHT_LOADER_H_
#define COMPUTED_PREFETCH_DEVICE_WEIGHT_LOADER_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "computed/model/model_tensors.h"
#include "computed/placement/device_placement.h"
#include "computed/prefetch/device_transport.h"
#include "computed/prefetch/host_expert_cache.h"
#include "computed/prefetch/weight_loader.h"
#include "computed/runtime/cuda/cuda_device.h"
#include "computed/runtime/cuda/device_arena.h"
#include "computed/runtime/cuda/lane_clock.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

struct DeviceWeightLoaderOptions {
  // The transport to begin with. If it turns out that it cannot copy (FAILED_PRECONDITION),
  // `fallback` makes another, once; may be null.
  std::unique_ptr<DeviceTransport> transport;
  std::function<absl::StatusOr<std::unique_ptr<DeviceTransport>>(const absl::Status& why)> fallback;
  // Reads the embedding, and experts for the cache, where they lie; null if the embedding has to be
  // held in pinned memory. Owned by `transport`.
  RegisteredTransport* registered = nullptr;
  // Has experts for the cache where nothing is registered; else null. Must outlive the loader.
  HostExpertCache* host_experts = nullptr;
};

class DeviceWeightLoader : public WeightLoader {
 public:
  // Takes plan.resident_memory + plan.ring_memory bytes from the arena and begins to fill them. The
  // arguments must outlive the loader.
  static absl::StatusOr<std::unique_ptr<DeviceWeightLoader>> Create(
      const CudaDevice& device, WeightSource& source, const ModelTensors& tensors,
      const DevicePlacement& plan, DeviceArena& arena, DeviceWeightLoaderOptions options);
  ~DeviceWeightLoader() override;

  const std::vector<WeightPart>& parts() const override { return parts_; }
  bool IsLarge(int rows) const override {
    return !plan_.expert_cache.empty() && !plan_.expert_cache.TakesStepOf(rows);
  }
  void BeginStep(int rows, bool with_head, absl::Time deadline) override;
  absl::StatusOr<const LayerWeights*> Acquire(int part, absl::Time deadline) override;
  void Release(int part) override;
  const LayerWeights& HostVectors(int group) const override { return host_vectors_[group]; }
  // Of copies from pinned memory, measured when the loader was created.
  double bytes_per_second() const override { return link_bytes_per_second_; }
  // Of pinned memory.
  uint64_t memory_bytes() const override;

  // Copies, as they were on the copy stream; detail: the part.
  LaneClock& copy_clock() { return copy_clock_; }
  uint64_t copied_bytes() const;
  // Why the transport is not the first choice; empty if it is.
  std::string fallback_reason() const;
  std::string transport_name() const;

 private:
  // Something to be copied: a part's resident or streamed tensors.
  struct Request {
    int part;
    bool streamed;
    int64_t step;
  };
  // What has become of the last request for a destination.
  struct Arrival {
    int part = -1;          // whose bytes they are
    bool enqueued = false;  // the copy is on the stream, or has failed
    absl::Status status;
    cudaEvent_t arrived = nullptr;   // recorded behind the copy
    cudaEvent_t released = nullptr;  // recorded behind the operations that read; slots only
  };

  DeviceWeightLoader(const CudaDevice& device, WeightSource& source, const ModelTensors& tensors,
                     const DevicePlacement& plan, DeviceWeightLoaderOptions options);
  absl::Status LoadVectors(DeviceArena& arena);
  absl::Status PlaceMemory(DeviceArena& arena);
  absl::Status PlaceEmbedding();
  absl::Status MeasureLink(DeviceArena& arena);
  void BindTensors(int group, const Transfer& transfer, uint8_t* memory, LayerWeights& weights);
  absl::Status BindCachedExperts(int part);
  // Whether the step in progress streams the part's second transfer.
  bool Streams(int part) const {
    return !plan_.parts[part].streamed.empty() && (large_ || !plan_.parts[part].cached);
  }

  void Enqueue(int part, bool streamed);
  void RunCopies();
  absl::Status Copy(const Request& request, Arrival& arrival);
  absl::Status CopyWith(const Transfer& transfer, uint8_t* destination);
  Arrival& ArrivalOf(int part, bool streamed) {
    return streamed ? slots_[plan_.parts[part].slot] : residents_[part];
  }
  absl::Status WaitFor(int part, bool streamed, absl::Time deadline);
  // The streamed part that comes into a slot when `part` leaves it.
  int PartAfter(int part) const;

  const CudaDevice& device_;
  WeightSource& source_;
  const ModelTensors& tensors_;
  const DevicePlacement& plan_;
  // The loader's thread changes the transport; others look at it under the lock.
  DeviceWeightLoaderOptions options_;
  std::unique_ptr<DeviceTransport> registered_transport_;  // after the fallback
  std::vector<WeightPart> parts_;
  std::vector<LayerWeights> weights_;        // (parts)
  std::vector<LayerWeights> small_weights_;  // (parts) with experts in the cache, or empty
  std::vector<LayerWeights> host_vectors_;   // (groups)
  std::vector<std::vector<float>> vectors_;  // what host_vectors_ points to
  std::vector<uint8_t*> resident_memory_;    // (parts)
  std::vector<uint8_t*> slot_memory_;        // (ring slots)
  std::vector<int> streamed_;                // the streamed parts in order
  uint8_t* pinned_embedding_ = nullptr;
  uint64_t pinned_bytes_ = 0;
  double link_bytes_per_second_ = 0;
  LaneClock copy_clock_;

  // Of the thread that acquires.
  std::vector<bool> resident_ready_;  // (parts)
  bool with_head_ = true;
  bool large_ = false;
  int64_t step_ = 0;

  mutable absl::Mutex mutex_;
  std::deque<Request> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<Arrival> residents_ ABSL_GUARDED_BY(mutex_);  // (parts)
  std::vector<Arrival> slots_ ABSL_GUARDED_BY(mutex_);      // (ring slots)
  uint64_t copied_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string fallback_reason_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_DEVICE_WEIGHT_LOADER_H_
