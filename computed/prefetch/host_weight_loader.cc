#include "computed/prefetch/host_weight_loader.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/quant/dequantize.h"

namespace gguf_offload {
namespace {

// How long a fetch that was started ahead of its need may take before it is given up; whoever
// needs the group then starts it again.
constexpr absl::Duration kPrefetchPatience = absl::Seconds(60);

// Tensors in fetched memory begin at cache lines.
uint64_t Aligned(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

uint64_t BytesOf(const std::vector<const ModelTensor*>& tensors) {
  uint64_t bytes = 0;
  for (const ModelTensor* tensor : tensors) bytes += Aligned(tensor->bytes);
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightLoader>> HostWeightLoader::Create(WeightSource& source,
                                                                       const ModelTensors& tensors,
                                                                       const Placement& placement,
                                                                       HostExpertCache* experts) {
  std::unique_ptr<HostWeightLoader> loader(
      new HostWeightLoader(source, tensors, placement, experts));
  loader->weights_.resize(tensors.groups.size());
  for (size_t group = 0; group < tensors.groups.size(); ++group) {
    // A layer's operations begin as soon as it is there.
    loader->parts_.push_back(
        {.group = static_cast<int>(group), .standalone = true, .standalone_if_large = true});
  }
  if (absl::Status status = loader->AllocateMemory(); !status.ok()) return status;
  if (absl::Status status = loader->LoadVectors(); !status.ok()) return status;

  // Everything that can be fetched now is: residents in the order they are needed, then the ring.
  const absl::Time deadline = absl::Now() + absl::Hours(1);
  for (size_t group = 0; group < tensors.groups.size(); ++group) {
    Destination& resident = loader->resident_[group];
    if (resident.memory.size() > 0) {
      loader->PointAt(group, /*streamed=*/false, resident.memory.data());
      loader->StartFetch(group, resident, deadline);
    }
  }
  if (experts == nullptr) {
    for (size_t i = 0; i < loader->ring_.size() && i < loader->streamed_.size(); ++i) {
      loader->StartFetch(loader->streamed_[i], loader->ring_[i], deadline);
    }
  } else {
    loader->BindCachedExperts();
  }
  return loader;
}

HostWeightLoader::~HostWeightLoader() {
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return under_way_ == 0; };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&idle));
}

absl::Status HostWeightLoader::AllocateMemory() {
  const size_t groups = tensors_.groups.size();
  resident_.resize(groups);
  streamed_index_.assign(groups, -1);
  for (size_t group = 0; group < groups; ++group) {
    if (!Matrices(group, /*streamed=*/true).empty()) {
      streamed_index_[group] = static_cast<int>(streamed_.size());
      streamed_.push_back(static_cast<int>(group));
    }
    if (source_.MappedShard(0) == nullptr) {
      absl::StatusOr<HostBuffer> memory =
          HostBuffer::Allocate(BytesOf(Matrices(group, /*streamed=*/false)));
      if (!memory.ok()) return memory.status();
      memory_bytes_ += memory->size();
      resident_[group].memory = *std::move(memory);
    }
  }
  ring_.resize(placement_.ring_slots);
  uint64_t slot_bytes = 0;
  for (int group : streamed_) {
    slot_bytes = std::max(slot_bytes, BytesOf(Matrices(group, /*streamed=*/true)));
  }
  for (Destination& slot : ring_) {
    absl::StatusOr<HostBuffer> memory = HostBuffer::Allocate(slot_bytes);
    if (!memory.ok()) return memory.status();
    memory_bytes_ += memory->size();
    slot.memory = *std::move(memory);
  }
  return absl::OkStatus();
}

absl::Status HostWeightLoader::LoadVectors() {
  struct Pending {
    size_t group;
    const ModelTensor* tensor;
    std::vector<uint8_t> bytes;
  };
  std::vector<Pending> pending;
  std::vector<WeightSource::Range> ranges;
  for (size_t group = 0; group < tensors_.groups.size(); ++group) {
    for (const ModelTensor& tensor : tensors_.groups[group]) {
      const uint8_t* shard = source_.MappedShard(tensor.shard);
      if (tensor.is_vector()) {
        pending.push_back({group, &tensor, std::vector<uint8_t>(tensor.bytes)});
        ranges.push_back({tensor.shard, tensor.offset, tensor.bytes, pending.back().bytes.data()});
      } else if (shard != nullptr) {
        Bind(tensor, tensor.type, shard + tensor.offset, tensor.matrix_stride, weights_[group]);
      }
    }
  }
  absl::Status status = source_.Read(std::move(ranges), absl::Now() + kPrefetchPatience);
  if (!status.ok()) return status;
  for (const Pending& vector : pending) {
    std::vector<float>& values = vectors_.emplace_back(vector.tensor->columns);
    quant::Dequantize(vector.tensor->type, vector.bytes.data(), values.size(), values.data());
    memory_bytes_ += values.size() * sizeof(float);
    Bind(*vector.tensor, quant::TensorType::kF32, reinterpret_cast<const uint8_t*>(values.data()),
         /*matrix_stride=*/0, weights_[vector.group]);
  }
  for (size_t group = 0; group < tensors_.groups.size(); ++group) {
    ScaleFeedForwardBiases(tensors_.groups[group], weights_[group]);
  }
  return absl::OkStatus();
}

std::vector<const ModelTensor*> HostWeightLoader::Matrices(int group, bool streamed) const {
  std::vector<const ModelTensor*> matrices;
  for (const ModelTensor& tensor : tensors_.groups[group]) {
    if (tensor.is_vector()) continue;
    const bool passes =
        placement_.streamed_groups[group] || (experts_ != nullptr && ExpertMatrixOf(tensor) >= 0);
    if (passes == streamed) matrices.push_back(&tensor);
  }
  return matrices;
}

void HostWeightLoader::PointAt(int group, bool streamed, const uint8_t* base) {
  for (const ModelTensor* tensor : Matrices(group, streamed)) {
    Bind(*tensor, tensor->type, base, /*matrix_stride=*/0, weights_[group]);
    if (ExpertMatrixOf(*tensor) >= 0) {
      weights_[group][tensor->id].expert_layer = group - tensors_.layer_group(0);
    }
    base += Aligned(tensor->bytes);
  }
}

// The same weights, but for experts, which are in the cache: the ring's memory stands for them.
void HostWeightLoader::BindCachedExperts() {
  for (const int group : streamed_) PointAt(group, /*streamed=*/true, ring_[0].memory.data());
  small_weights_ = weights_;
  for (const int group : streamed_) {
    for (const ModelTensor* tensor : Matrices(group, /*streamed=*/true)) {
      small_weights_[group][tensor->id].cached = true;
    }
  }
}

void HostWeightLoader::StartFetch(int group, Destination& destination, absl::Time deadline) {
  std::vector<WeightSource::Range> ranges;
  uint8_t* next = destination.memory.data();
  uint64_t bytes = 0;
  for (const ModelTensor* tensor :
       Matrices(group, /*streamed=*/&destination != &resident_[group])) {
    // Matrices that do not lie side by side in the file do so here.
    const int64_t pieces = tensor->matrix_stride == 0 ? 1 : tensor->matrices;
    const uint64_t piece_bytes = tensor->bytes / pieces;
    for (int64_t i = 0; i < pieces; ++i) {
      ranges.push_back({tensor->shard, tensor->offset + i * tensor->matrix_stride, piece_bytes,
                        next + i * piece_bytes});
    }
    next += Aligned(tensor->bytes);
    bytes += tensor->bytes;
  }
  {
    absl::MutexLock lock(&mutex_);
    destination.group = group;
    destination.state = FetchState::kUnderWay;
    if (under_way_++ == 0) busy_since_ = absl::Now();
  }
  source_.ReadAsync(std::move(ranges), deadline, [this, &destination, bytes](absl::Status status) {
    absl::MutexLock lock(&mutex_);
    destination.state = FetchState::kDone;
    destination.status = std::move(status);
    if (destination.status.ok()) fetched_bytes_ += bytes;
    if (--under_way_ == 0) busy_ += absl::Now() - busy_since_;
  });
}

absl::Status HostWeightLoader::WaitFor(int group, Destination& destination, absl::Time deadline) {
  const auto done = [&destination] { return destination.state != FetchState::kUnderWay; };
  for (int attempt = 0;; ++attempt) {
    {
      absl::MutexLock lock(&mutex_);
      if (!done()) {
        const absl::Time start = absl::Now();
        const bool in_time = mutex_.AwaitWithDeadline(absl::Condition(&done), deadline);
        ++waits_;
        waited_ += absl::Now() - start;
        if (!in_time) {
          return absl::DeadlineExceededError("the weights did not arrive in time");
        }
      }
      if (destination.group == group && destination.state == FetchState::kDone) {
        if (destination.status.ok()) return absl::OkStatus();
        // A fetch ahead of its need may have failed long ago; one more try tells what is so now.
        if (attempt > 0 || absl::IsDataLoss(destination.status)) return destination.status;
      }
    }
    StartFetch(group, destination, deadline);
  }
}

HostWeightLoader::Destination& HostWeightLoader::RingSlot(int group) {
  for (Destination& slot : ring_) {
    absl::MutexLock lock(&mutex_);
    if (slot.group == group) return slot;
  }
  // The step before was given up half way: the ring goes on from here.
  return ring_[ring_next_];
}

void HostWeightLoader::BeginStep(int rows, bool with_head, absl::Time deadline) {
  if (experts_ == nullptr) return;
  experts_->BeginStep(deadline);
  large_ = IsLarge(rows);
  if (!large_) return;
  // The ring has rested: it begins anew with the first banks, those that it has not kept.
  ring_next_ = 0;
  for (size_t i = 0; i < ring_.size(); ++i) {
    bool wanted = false;
    {
      absl::MutexLock lock(&mutex_);
      wanted = ring_[i].state != FetchState::kUnderWay && ring_[i].group != streamed_[i];
    }
    if (wanted) StartFetch(streamed_[i], ring_[i], absl::Now() + kPrefetchPatience);
  }
}

absl::StatusOr<const LayerWeights*> HostWeightLoader::Acquire(int group, absl::Time deadline) {
  if (resident_[group].memory.size() > 0) {
    if (absl::Status status = WaitFor(group, resident_[group], deadline); !status.ok()) {
      return status;
    }
  }
  if (Streams(group)) {
    Destination& slot = RingSlot(group);
    ring_next_ = &slot - ring_.data();
    if (absl::Status status = WaitFor(group, slot, deadline); !status.ok()) return status;
    PointAt(group, /*streamed=*/true, slot.memory.data());
  }
  LayerWeights& weights = experts_ != nullptr && !large_ ? small_weights_[group] : weights_[group];
  if (group == tensors_.head_group() && tensors_.tied_head) {
    // The embedding is never streamed.
    absl::StatusOr<const LayerWeights*> input = Acquire(tensors_.input_group(), deadline);
    if (!input.ok()) return input.status();
    const Weight own = weights[kOutput];
    weights[kOutput] = (**input)[kTokenEmbedding];
    weights[kOutput].scale = own.scale;
    weights[kOutput].bias = own.bias;
  }
  return &weights;
}

void HostWeightLoader::Release(int group) {
  if (!Streams(group)) return;
  // The slot is free: the group that is as far ahead as there are slots comes into it. Beyond the
  // step's end only if the next step is sure to want it.
  const size_t next = streamed_index_[group] + ring_.size();
  if (experts_ == nullptr || next < streamed_.size()) {
    StartFetch(streamed_[next % streamed_.size()], ring_[ring_next_],
               absl::Now() + kPrefetchPatience);
  }
  ring_next_ = (ring_next_ + 1) % ring_.size();
}

FetchCounters HostWeightLoader::fetch_counters() const {
  absl::MutexLock lock(&mutex_);
  absl::Duration busy = busy_;
  if (under_way_ > 0) busy += absl::Now() - busy_since_;
  uint64_t bytes = fetched_bytes_;
  if (experts_ != nullptr) {
    for (const HostExpertCache::Counters& layer : experts_->counters()) bytes += layer.bytes;
  }
  return {.bytes = bytes,
          .busy_seconds = absl::ToDoubleSeconds(busy),
          .waits = waits_,
          .wait_seconds = absl::ToDoubleSeconds(waited_)};
}

double HostWeightLoader::bytes_per_second() const {
  absl::MutexLock lock(&mutex_);
  absl::Duration busy = busy_;
  if (under_way_ > 0) busy += absl::Now() - busy_since_;
  return busy <= absl::ZeroDuration() ? 0 : fetched_bytes_ / absl::ToDoubleSeconds(busy);
}

}  // namespace gguf_offload
