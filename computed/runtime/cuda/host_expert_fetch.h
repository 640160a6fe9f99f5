// The host's part in filling slots of a GPU's cache of experts whose weights come over the network.
//
// The GPU finds out which experts are missing, and repeats it in mapped memory. Then, in its turn
// on the stream (also of a recorded graph), a function on the host looks them up in the cache in
// the host's memory, which fetches those that it does not have, and says where they are; kernels
// that follow copy them from there. The thread that drives the steps never waits. A function on a
// stream cannot fail: what went wrong is told when the step is over.
#ifndef COMPUTED_RUNTIME_CUDA_HOST_EXPERT_FETCH_H_
#define COMPUTED_RUNTIME_CUDA_HOST_EXPERT_FETCH_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "computed/prefetch/host_expert_cache.h"
#include "computed/runtime/cuda/pinned_memory.h"
#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/moe/expert_slot.h"

namespace gguf_offload {

// One stream uses it. Must outlive the graphs that it is recorded in.
class HostExpertFetch {
 public:
  // `memory` is what the cache's entries are in. The cache must outlive the result.
  static absl::StatusOr<std::unique_ptr<HostExpertFetch>> Create(HostExpertCache& cache,
                                                                 const PinnedMemory& memory);

  const HostExpertPlan& plan() const { return cache_.plan(); }
  // Adds the mapped memory through which the GPU and the host tell each other.
  void AddTo(cuda::ExpertFills& fills) const;

  // Puts the function on the stream, for what the operation before has found missing in `layer`.
  void Launch(int layer, cudaStream_t stream);

  // The first thing that went wrong since the last call; then nothing has been fetched any more.
  // All functions launched must have run.
  absl::Status TakeStatus();

 private:
  struct Call {
    HostExpertFetch* fetch = nullptr;
    int layer = 0;
  };

  // What the GPU and the host tell each other.
  struct Mapped {
    int32_t count;                            // of missing experts
    cuda::ExpertFill fills[kMaxExpertSlots];  // (count)
    const uint8_t* entries[kMaxExpertSlots];  // (count) device addresses, or null
  };

  explicit HostExpertFetch(HostExpertCache& cache) : cache_(cache) {}
  static void Run(void* call);
  void Fetch(int layer);
  Mapped& mapped() { return *reinterpret_cast<Mapped*>(mapped_.host.get()); }

  HostExpertCache& cache_;
  int64_t to_device_ = 0;                 // from an address of an entry to its device address
  PinnedMemory mapped_;                   // a Mapped
  std::vector<Call> calls_;               // (layers)
  std::vector<int32_t> missing_;          // of the call in progress
  std::vector<const uint8_t*> found_at_;  // (missing)

  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_HOST_EXPERT_FETCH_H_
