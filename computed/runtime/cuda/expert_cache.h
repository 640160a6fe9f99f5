// Experts of a model that does not fit: slots in GPU memory, which kernels fill from the host's
// pages when a token is routed to an expert that is not there (kernels/moe/expert_cache_cuda.h),
// or, where the weights come over the network, from a cache in the host's memory.
#ifndef COMPUTED_RUNTIME_CUDA_EXPERT_CACHE_H_
#define COMPUTED_RUNTIME_CUDA_EXPERT_CACHE_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "computed/placement/device_placement.h"
#include "computed/runtime/cuda/device_arena.h"
#include "computed/runtime/cuda/host_expert_fetch.h"
#include "computed/runtime/tensor.h"
#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/moe/expert_matrices_cuda.h"
#include "kernels/moe/router_cuda.h"

namespace gguf_offload {

// What has happened to a layer's experts since the start.
struct ExpertActivity {
  int layer = 0;
  int slots = 0;  // of the cache; 0: all experts are resident or streamed
  uint64_t slot_bytes = 0;
  uint64_t hits = 0;           // experts that a step found in the cache
  uint64_t misses = 0;         // experts that it had to fetch
  uint64_t bytes = 0;          // that it fetched
  uint64_t early = 0;          // experts that were fetched because they were predicted
  uint64_t early_used = 0;     // of these, those that the step then wanted
  uint64_t early_bytes = 0;    // fetched for them, not in `bytes`
  std::vector<uint32_t> uses;  // (experts) tokens that went there; wraps around
};

// One of the parts that a fetch is copied in.
struct FetchPart {
  cuda::FillPart fill;
  // Rows of its experts' `down` that are there behind it, and were not before; 0: none yet.
  int64_t first_row = 0;
  int64_t end_row = 0;
};

// Also counts how often experts are used, with or without a cache. One thread queues work; Read may
// be called from any.
class ExpertCache {
 public:
  // Bytes of device memory, but for the slots: of `layers` layers with `experts` experts each.
  static uint64_t StateBytes(int layers, int experts);

  // `plan` may be empty: then experts are only counted. `host` is where experts come from; null:
  // from the host's pages, where weights say.
  static absl::StatusOr<std::unique_ptr<ExpertCache>> Create(const ExpertCachePlan& plan,
                                                             int layers, int experts,
                                                             std::unique_ptr<HostExpertFetch> host,
                                                             DeviceArena& arena);
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  // (experts) device memory where uses of a layer are counted.
  uint32_t* uses(int layer) const { return uses_ + int64_t{layer} * experts_; }

  // The most rows whose experts find room at the same time.
  int MostRows(int layer, int used) const;
  // Begins to bring the experts of `chosen` to slots, at most MostRows rows: on a stream of its
  // own, behind what has been queued on `stream` and beside what will be. The weights are in the
  // host's pages; or anywhere at the same address modulo 16, if the experts come from elsewhere.
  // With `scores`, where CanChooseAndResolve, also makes the choice.
  void Fetch(int layer, const cuda::ChosenExperts& chosen, const cuda::RouterScores* scores,
             const Weight& gate, const Weight& up, const Weight& down, cudaStream_t stream);
  // The parts of `chosen` that its last Fetch brings one after the other: "fills" are its pairs.
  std::vector<FetchPart> PartsOf(int layer, const cuda::ChosenExperts& chosen,
                                 const Weight& down) const;
  // Device memory, where the last Fetch says how many experts were not in their slots.
  const int32_t* missing() const { return fills_.count; }
  // What is queued on `stream` from here on finds this part's matrices in their slots. All parts
  // must be awaited before the next Fetch.
  void Await(int part, cudaStream_t stream);
  // Where Fetch brings them.
  cudaStream_t fetch_stream() const { return fetch_stream_; }
  // Brings the experts of a guess at `layer`'s next Fetch to slots that nobody needs, those with
  // the largest weights, `most_bytes` of them at most. `fills` is memory for it, of
  // kMaxExpertSlots. The layer's slots must be its own, and its next Fetch behind this. Queued on
  // fetch_stream(), behind what the last Fetch brings.
  void FetchEarly(int layer, const cuda::ChosenExperts& guess, const Weight& gate, const Weight& up,
                  const Weight& down, const cuda::ExpertFills& fills, uint64_t most_bytes) const;
  // The same matrices, matrix 0 (gate), 1 (up) or 2 (down) of each expert, in the slots.
  cuda::ExpertMatrices InSlots(int layer, int matrix, cuda::ExpertMatrices matrices) const;
  // What went wrong since the last call, in operations on `stream` that are all done. If something
  // did, slots may not hold what they should: then the cache is emptied, for the operations that
  // follow.
  absl::Status Settle(cudaStream_t stream);

  // A layer at a time, while steps go on.
  absl::StatusOr<std::vector<ExpertActivity>> Read();

 private:
  struct Layer {
    const ExpertCachePlan::Layer* plan = nullptr;  // null: no cache
    uint8_t* slots = nullptr;
    cuda::ExpertPool pool;
    int row = 0;  // of the pool's slot_of
  };
  // Where the experts of a layer come from.
  struct Origin {
    cuda::ExpertSource sources[3];
    int64_t expert_bytes = 0;
  };

  ExpertCache(const ExpertCachePlan& plan, int layers, int experts,
              std::unique_ptr<HostExpertFetch> host)
      : plan_(plan), experts_(experts), host_(std::move(host)), layers_(layers) {}
  // A part's experts are multiplied while the next one's come.
  static constexpr int kMostParts = 4;

  absl::Status Allocate(DeviceArena& arena);
  Origin OriginOf(int layer, const Weight& gate, const Weight& up, const Weight& down) const;

  const ExpertCachePlan plan_;
  const int experts_;
  const std::unique_ptr<HostExpertFetch> host_;  // null: experts come from the host's pages
  std::vector<Layer> layers_;
  cuda::ExpertFills fills_;
  cuda::ExpertCounts* counts_ = nullptr;  // (layers)
  uint32_t* uses_ = nullptr;              // (layers, experts)
  uint8_t* owners_ = nullptr;             // who has which slot: all bits set where nobody has
  uint64_t owner_bytes_ = 0;

  // Null where Create failed half way.
  cudaStream_t fetch_stream_ = nullptr;
  cudaEvent_t resolved_ = nullptr;        // on the caller's stream
  cudaEvent_t fetched_[kMostParts] = {};  // on fetch_stream_: the part is there

  absl::Mutex mutex_;
  cudaStream_t reading_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_EXPERT_CACHE_H_
