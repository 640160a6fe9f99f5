#include "computed/runtime/cuda/host_expert_fetch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<HostExpertFetch>> HostExpertFetch::Create(
    HostExpertCache& cache, const PinnedMemory& memory) {
  std::unique_ptr<HostExpertFetch> fetch(new HostExpertFetch(cache));
  fetch->to_device_ =
      reinterpret_cast<intptr_t>(memory.device) - reinterpret_cast<intptr_t>(memory.host.get());

  absl::StatusOr<PinnedMemory> mapped = PinnedMemory::Allocate(sizeof(Mapped), "missing experts");
  if (!mapped.ok()) return mapped.status();
  fetch->mapped_ = *std::move(mapped);
  // No addresses, should the function not even be put on the stream.
  std::memset(fetch->mapped_.host.get(), 0, sizeof(Mapped));
  for (size_t layer = 0; layer < cache.plan().layers.size(); ++layer) {
    fetch->calls_.push_back({fetch.get(), static_cast<int>(layer)});
  }
  return fetch;
}

void HostExpertFetch::AddTo(cuda::ExpertFills& fills) const {
  Mapped& mapped = *reinterpret_cast<Mapped*>(mapped_.device);
  fills.told_fills = mapped.fills;
  fills.told_count = &mapped.count;
  fills.entries = mapped.entries;
}

void HostExpertFetch::Launch(int layer, cudaStream_t stream) {
  const cudaError_t error = cudaLaunchHostFunc(stream, Run, &calls_[layer]);
  if (error == cudaSuccess) return;
  absl::MutexLock lock(&mutex_);
  status_.Update(CudaStatus(error, "fetching experts"));
}

void HostExpertFetch::Run(void* call) {
  const Call& c = *static_cast<Call*>(call);
  c.fetch->Fetch(c.layer);
}

void HostExpertFetch::Fetch(int layer) {
  const int count = std::clamp(mapped().count, 0, kMaxExpertSlots);
  if (count == 0) return;
  missing_.resize(count);
  found_at_.resize(count);
  for (int i = 0; i < count; ++i) missing_[i] = mapped().fills[i].expert;
  absl::Status status;
  {
    // A step that has failed is not worth a wait for more.
    absl::MutexLock lock(&mutex_);
    status = status_;
  }
  if (status.ok()) status = cache_.Fetch(layer, missing_, found_at_);
  for (int i = 0; i < count; ++i) {
    mapped().entries[i] = status.ok() ? found_at_[i] + to_device_ : nullptr;
  }
  absl::MutexLock lock(&mutex_);
  status_.Update(std::move(status));
}

absl::Status HostExpertFetch::TakeStatus() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(status_, absl::OkStatus());
}

}  // namespace gguf_offload
