#include "computed/runtime/cuda/expert_cache.h"

#include <algorithm>

#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/moe/expert_prediction_cuda.h"
#include "kernels/moe/expert_slot.h"

namespace gguf_offload {
namespace {

// The parts of the state, as offsets into it.
struct StateLayout : ArenaLayout {
  uint64_t counts = 0, uses = 0, clocks = 0, last_use = 0, early_for = 0;  // zero at first
  uint64_t zero_bytes = 0;
  uint64_t slot_of = 0, owner = 0;  // -1 at first
  uint64_t fills = 0, fill_count = 0, fills_begun = 0;

  StateLayout(uint64_t layers, uint64_t experts) {
    // A layer has no more slots than experts, and a pool of all layers has no more than there may
    // be.
    const uint64_t slots = std::max<uint64_t>(layers * experts, kMaxExpertSlots);
    counts = Add(layers * sizeof(cuda::ExpertCounts));
    uses = Add(layers * experts * sizeof(uint32_t));
    clocks = Add(layers * sizeof(unsigned long long));
    last_use = Add(slots * sizeof(unsigned long long));
    early_for = Add(slots * sizeof(unsigned long long));
    zero_bytes = bytes;
    slot_of = Add(layers * experts * sizeof(int32_t));
    owner = Add(slots * sizeof(int32_t));
    fills = Add(kMaxExpertSlots * sizeof(cuda::ExpertFill));
    fill_count = Add(sizeof(int32_t));
    fills_begun = Add(cuda::kMaxFillParts * sizeof(int32_t));
  }
};

}  // namespace

uint64_t ExpertCache::StateBytes(int layers, int experts) {
  return StateLayout(layers, experts).bytes;
}

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Create(
    const ExpertCachePlan& plan, int layers, int experts, std::unique_ptr<HostExpertFetch> host,
    DeviceArena& arena) {
  std::unique_ptr<ExpertCache> cache(new ExpertCache(plan, layers, experts, std::move(host)));
  if (absl::Status status = cache->Allocate(arena); !status.ok()) return status;
  return cache;
}

absl::Status ExpertCache::Allocate(DeviceArena& arena) {
  const StateLayout layout(layers_.size(), experts_);
  absl::StatusOr<uint8_t*> state = arena.Take(layout.bytes, "state of experts");
  if (!state.ok()) return state.status();
  const auto at = [&]<typename T>(uint64_t offset, T*) {
    return reinterpret_cast<T*>(*state + offset);
  };
  counts_ = at(layout.counts, counts_);
  uses_ = at(layout.uses, uses_);
  fills_ = {at(layout.fills, fills_.fills), at(layout.fill_count, fills_.count),
            at(layout.fills_begun, fills_.begun)};
  if (host_ != nullptr) host_->AddTo(fills_);
  owners_ = *state + layout.slot_of;
  owner_bytes_ = layout.fills - layout.slot_of;
  absl::Status status = CudaStatus(cudaMemset(*state, 0, layout.zero_bytes), "clearing counters");
  if (status.ok()) {
    status = CudaStatus(cudaMemset(owners_, 0xff, owner_bytes_), "emptying the cache of experts");
  }
  if (!status.ok() || plan_.empty()) return status;

  // Ahead of what else the GPU does: the link is what a step waits for.
  int least = 0, greatest = 0;
  cudaDeviceGetStreamPriorityRange(&least, &greatest);
  status = CudaStatus(cudaStreamCreateWithPriority(&fetch_stream_, cudaStreamNonBlocking, greatest),
                      "a stream for experts");
  const auto make = [&status](cudaEvent_t& event) {
    if (!status.ok()) return;
    status = CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  };
  make(resolved_);
  for (cudaEvent_t& event : fetched_) make(event);
  if (!status.ok()) return status;

  absl::StatusOr<uint8_t*> slots = arena.Take(plan_.slot_memory, "cache of experts");
  if (!slots.ok()) return slots.status();
  cuda::ExpertPool pool{
      .owner = at(layout.owner, static_cast<int32_t*>(nullptr)),
      .last_use = at(layout.last_use, static_cast<unsigned long long*>(nullptr)),
      .clock = at(layout.clocks, static_cast<unsigned long long*>(nullptr)),
      .slot_of = at(layout.slot_of, static_cast<int32_t*>(nullptr)),
      .early_for = at(layout.early_for, static_cast<unsigned long long*>(nullptr))};
  int row = 0;
  for (const ExpertCachePlan::Layer& plan : plan_.layers) {
    pool.slots = plan.slots;
    layers_[plan.layer] = {&plan, *slots, pool, row};
    if (plan_.shared) {
      ++row;
      continue;
    }
    *slots += plan.slot_bytes * plan.slots;
    pool.owner += plan.slots;
    pool.last_use += plan.slots;
    pool.early_for += plan.slots;
    pool.clock += 1;
    pool.slot_of += experts_;
  }
  return absl::OkStatus();
}

ExpertCache::~ExpertCache() {
  if (fetch_stream_ != nullptr) cudaStreamSynchronize(fetch_stream_);
  if (resolved_ != nullptr) cudaEventDestroy(resolved_);
  for (cudaEvent_t event : fetched_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (fetch_stream_ != nullptr) cudaStreamDestroy(fetch_stream_);
  if (reading_ != nullptr) cudaStreamDestroy(reading_);
}

int ExpertCache::MostRows(int layer, int used) const {
  const int slots = layers_[layer].pool.slots;
  const int rows = slots >= experts_ ? INT32_MAX : slots / used;
  return host_ == nullptr ? rows : std::min(rows, host_->plan().MostTokens(layer));
}

ExpertCache::Origin ExpertCache::OriginOf(int layer, const Weight& gate, const Weight& up,
                                          const Weight& down) const {
  const ExpertCachePlan::Layer& plan = *layers_[layer].plan;
  const Weight* weights[] = {&gate, &up, &down};
  Origin origin;
  for (int i = 0; i < 3; ++i) {
    origin.sources[i] = {.data = weights[i]->data,
                         .bytes = static_cast<int64_t>(plan.matrix_bytes[i]),
                         .offset = static_cast<int64_t>(plan.offsets[i]),
                         .stride = weights[i]->stride()};
    origin.expert_bytes += origin.sources[i].bytes;
  }
  return origin;
}

std::vector<FetchPart> ExpertCache::PartsOf(int layer, const cuda::ChosenExperts& chosen,
                                            const Weight& down) const {
  // What follows the first part only hides something where none of the experts was there, which is
  // rare with more than a few slots; the experts of several rows may be the same.
  if (chosen.rows > 1 || chosen.used == 1 || 4 * layers_[layer].pool.slots > experts_) {
    return {{{.end = chosen.pairs()}, 0, down.rows}};
  }
  // The last part's products begin when nothing is left to be fetched: as few as can be.
  const int last = chosen.used - 1, end = chosen.used;
  const int64_t most_rows = down.rows * 3 / 4, most_bytes = most_rows * down.row_bytes();
  return {{{.number = 0, .end = last}, 0, down.rows},
          {{.number = 1, .first = last, .end = end, .end_matrix = 2}, 0, 0},
          {{.number = 2, .first = last, .end = end, .first_matrix = 2, .end_byte = most_bytes},
           0,
           most_rows},
          {{.number = 3, .first = last, .end = end, .first_matrix = 2, .first_byte = most_bytes},
           most_rows,
           down.rows}};
}

void ExpertCache::Fetch(int layer, const cuda::ChosenExperts& chosen,
                        const cuda::RouterScores* scores, const Weight& gate, const Weight& up,
                        const Weight& down, cudaStream_t stream) {
  const Layer& l = layers_[layer];
  const Origin origin = OriginOf(layer, gate, up, down);
  cuda::ResolveExperts(chosen, scores, l.pool, l.row, experts_, fills_, counts_ + layer,
                       origin.expert_bytes, stream);
  cudaEventRecord(resolved_, stream);
  cuda::LetFillsBegin(stream);
  cudaStreamWaitEvent(fetch_stream_, resolved_, 0);
  if (host_ != nullptr) host_->Launch(layer, fetch_stream_);
  for (const FetchPart& of_fetch : PartsOf(layer, chosen, down)) {
    cuda::FillPart part = of_fetch.fill;
    part.end = std::min({part.end, l.pool.slots, experts_});
    cuda::FillSlots(fills_, part, origin.sources, l.slots, static_cast<int64_t>(l.plan->slot_bytes),
                    fetch_stream_);
    cudaEventRecord(fetched_[part.number], fetch_stream_);
  }
}

void ExpertCache::Await(int part, cudaStream_t stream) {
  cudaStreamWaitEvent(stream, fetched_[part], 0);
}

void ExpertCache::FetchEarly(int layer, const cuda::ChosenExperts& guess, const Weight& gate,
                             const Weight& up, const Weight& down, const cuda::ExpertFills& fills,
                             uint64_t most_bytes) const {
  const Layer& l = layers_[layer];
  const Origin origin = OriginOf(layer, gate, up, down);
  const uint64_t fitting = most_bytes / origin.expert_bytes;
  const int most = static_cast<int>(std::min<uint64_t>(
      {fitting, uint64_t(guess.pairs()), uint64_t(l.pool.slots), uint64_t(experts_)}));
  cuda::ResolveGuess(guess, most, l.pool, l.row, experts_, fills, counts_ + layer,
                     origin.expert_bytes, fetch_stream_);
  cuda::FillSlots(fills, {.end = most}, origin.sources, l.slots,
                  static_cast<int64_t>(l.plan->slot_bytes), fetch_stream_);
}

cuda::ExpertMatrices ExpertCache::InSlots(int layer, int matrix,
                                          cuda::ExpertMatrices matrices) const {
  const Layer& l = layers_[layer];
  matrices.file_phase = static_cast<int>(reinterpret_cast<uintptr_t>(matrices.data) & 15);
  matrices.data = l.slots + l.plan->offsets[matrix];
  matrices.slots = l.pool.slot_of + int64_t{l.row} * experts_;
  matrices.slot_stride = static_cast<int64_t>(l.plan->slot_bytes);
  return matrices;
}

absl::Status ExpertCache::Settle(cudaStream_t stream) {
  if (host_ == nullptr) return absl::OkStatus();
  absl::Status status = host_->TakeStatus();
  if (!status.ok()) cudaMemsetAsync(owners_, 0xff, owner_bytes_, stream);
  return status;
}

absl::StatusOr<std::vector<ExpertActivity>> ExpertCache::Read() {
  absl::MutexLock lock(&mutex_);
  // A stream of its own, which waits for nothing that steps do.
  if (reading_ == nullptr) {
    absl::Status status = CudaStatus(cudaStreamCreateWithFlags(&reading_, cudaStreamNonBlocking),
                                     "a stream for counters");
    if (!status.ok()) return status;
  }
  std::vector<cuda::ExpertCounts> counts(layers_.size());
  std::vector<uint32_t> uses(layers_.size() * experts_);
  cudaMemcpyAsync(counts.data(), counts_, counts.size() * sizeof(counts[0]), cudaMemcpyDeviceToHost,
                  reading_);
  cudaMemcpyAsync(uses.data(), uses_, uses.size() * sizeof(uses[0]), cudaMemcpyDeviceToHost,
                  reading_);
  absl::Status status = CudaStatus(cudaStreamSynchronize(reading_), "reading counters");
  if (!status.ok()) return status;
  std::vector<ExpertActivity> activity(layers_.size());
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const Layer& l = layers_[layer];
    const auto first = uses.begin() + layer * experts_;
    activity[layer] = {.layer = static_cast<int>(layer),
                       .slots = l.pool.slots,
                       .slot_bytes = l.plan == nullptr ? 0 : l.plan->slot_bytes,
                       .hits = counts[layer].hits,
                       .misses = counts[layer].misses,
                       .bytes = counts[layer].bytes,
                       .early = counts[layer].early,
                       .early_used = counts[layer].early_used,
                       .early_bytes = counts[layer].early_bytes,
                       .uses = {first, first + experts_}};
  }
  return activity;
}

}  // namespace gguf_offload
