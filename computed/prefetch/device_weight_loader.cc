#include "computed/prefetch/device_weight_loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/quant/dequantize.h"

namespace gguf_offload {
namespace {

// How long a copy that was begun ahead of its need may wait for its bytes before it is given up;
// whoever needs them then begins it again.
constexpr absl::Duration kPatience = absl::Seconds(60);

}  // namespace

DeviceWeightLoader::DeviceWeightLoader(const CudaDevice& device, WeightSource& source,
                                       const ModelTensors& tensors, const DevicePlacement& plan,
                                       DeviceWeightLoaderOptions options)
    : device_(device),
      source_(source),
      tensors_(tensors),
      plan_(plan),
      options_(std::move(options)),
      copy_clock_(device.copy_stream()) {
  for (size_t i = 0; i < plan.parts.size(); ++i) {
    const DevicePart& part = plan.parts[i];
    parts_.push_back({.group = part.group,
                      .first_row = part.first_row,
                      .standalone = !part.streamed.empty() && !part.cached,
                      .standalone_if_large = !part.streamed.empty()});
    if (!part.streamed.empty()) streamed_.push_back(static_cast<int>(i));
  }
  weights_.resize(parts_.size());
  small_weights_.resize(parts_.size());
  resident_memory_.resize(parts_.size());
  resident_ready_.resize(parts_.size());
}

absl::StatusOr<std::unique_ptr<DeviceWeightLoader>> DeviceWeightLoader::Create(
    const CudaDevice& device, WeightSource& source, const ModelTensors& tensors,
    const DevicePlacement& plan, DeviceArena& arena, DeviceWeightLoaderOptions options) {
  std::unique_ptr<DeviceWeightLoader> loader(
      new DeviceWeightLoader(device, source, tensors, plan, std::move(options)));
  absl::Status status = loader->LoadVectors(arena);
  if (status.ok()) status = loader->PlaceMemory(arena);
  if (status.ok()) status = loader->PlaceEmbedding();
  if (status.ok()) status = loader->MeasureLink(arena);
  if (!status.ok()) return status;

  // Everything that can be copied now is: what stays, in the order in which it is needed, and the
  // first parts of the ring.
  loader->thread_ = std::thread([l = loader.get()] { l->RunCopies(); });
  for (size_t part = 0; part < plan.parts.size(); ++part) {
    if (!plan.parts[part].resident.empty()) loader->Enqueue(part, /*streamed=*/false);
    const auto streamed = std::find(loader->streamed_.begin(), loader->streamed_.end(), part);
    if (streamed - loader->streamed_.begin() < plan.summary.ring_slots) {
      loader->Enqueue(part, /*streamed=*/true);
    }
  }
  return loader;
}

DeviceWeightLoader::~DeviceWeightLoader() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  cudaStreamSynchronize(device_.copy_stream());
  cudaStreamSynchronize(device_.compute_stream());
  for (std::vector<Arrival>* arrivals : {&residents_, &slots_}) {
    for (Arrival& arrival : *arrivals) {
      if (arrival.arrived != nullptr) cudaEventDestroy(arrival.arrived);
      if (arrival.released != nullptr) cudaEventDestroy(arrival.released);
    }
  }
  if (pinned_embedding_ != nullptr) cudaFreeHost(pinned_embedding_);
}

absl::Status DeviceWeightLoader::LoadVectors(DeviceArena& arena) {
  std::vector<const ModelTensor*> tensors;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<WeightSource::Range> ranges;
  std::vector<size_t> groups;
  host_vectors_.resize(tensors_.groups.size());
  for (size_t group = 0; group < tensors_.groups.size(); ++group) {
    for (const ModelTensor& tensor : tensors_.groups[group]) {
      if (!tensor.is_vector()) continue;
      tensors.push_back(&tensor);
      groups.push_back(group);
      bytes.emplace_back(tensor.bytes);
      ranges.push_back({tensor.shard, tensor.offset, tensor.bytes, bytes.back().data()});
    }
  }
  absl::Status status = source_.Read(std::move(ranges), absl::Now() + kPatience);
  if (!status.ok()) return status;
  // One copy for all: there are hundreds.
  std::vector<float> packed;
  std::vector<size_t> offsets;
  constexpr size_t kFloats = DeviceArena::kAlignment / sizeof(float);
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<float>& values = vectors_.emplace_back(tensors[i]->columns);
    quant::Dequantize(tensors[i]->type, bytes[i].data(), values.size(), values.data());
    Bind(*tensors[i], quant::TensorType::kF32, reinterpret_cast<const uint8_t*>(values.data()),
         /*matrix_stride=*/0, host_vectors_[groups[i]]);
  }
  for (size_t group = 0; group < tensors_.groups.size(); ++group) {
    ScaleFeedForwardBiases(tensors_.groups[group], host_vectors_[group]);
  }
  for (const std::vector<float>& values : vectors_) {
    offsets.push_back(packed.size());
    packed.insert(packed.end(), values.begin(), values.end());
    packed.resize((packed.size() + kFloats - 1) / kFloats * kFloats);
  }
  absl::StatusOr<uint8_t*> memory = arena.Take(packed.size() * sizeof(float), "vectors");
  if (!memory.ok()) return memory.status();
  status = CudaStatus(
      cudaMemcpy(*memory, packed.data(), packed.size() * sizeof(float), cudaMemcpyHostToDevice),
      "copying vectors to the GPU");
  if (!status.ok()) return status;
  for (size_t part = 0; part < parts_.size(); ++part) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (static_cast<int>(groups[i]) != parts_[part].group) continue;
      Bind(*tensors[i], quant::TensorType::kF32, *memory + offsets[i] * sizeof(float),
           /*matrix_stride=*/0, weights_[part]);
    }
  }
  return absl::OkStatus();
}

void DeviceWeightLoader::BindTensors(int group, const Transfer& transfer, uint8_t* memory,
                                     LayerWeights& weights) {
  for (const PlacedTensor& placed : transfer.tensors) {
    const ModelTensor& tensor = *placed.tensor;
    // The embedding, where it is moved, is moved because it is the head.
    ModelTensor bound = tensor;
    if (tensor.id == kTokenEmbedding) bound.id = kOutput;
    bound.rows = placed.rows;
    Bind(bound, tensor.type, memory + placed.destination, tensor.matrix_stride, weights);
    Weight& weight = weights[bound.id];
    if (ExpertMatrixOf(tensor) >= 0) weight.expert_layer = group - tensors_.layer_group(0);
    // A part of the head has its part of the bias, which is there as a whole.
    if (bound.id == kOutput && weight.bias != nullptr) weight.bias += placed.first_row;
  }
}

// The same weights, but for experts, which are where the cache fetches them. What comes from the
// host's cache does not lie in a bank; the ring's address of it has the file's alignment.
absl::Status DeviceWeightLoader::BindCachedExperts(int part) {
  small_weights_[part] = weights_[part];
  for (const PlacedTensor& placed : plan_.parts[part].streamed.tensors) {
    const ModelTensor& tensor = *placed.tensor;
    if (ExpertMatrixOf(tensor) < 0) continue;
    Weight& weight = small_weights_[part][tensor.id];
    weight.cached = true;
    if (options_.registered == nullptr) continue;
    absl::StatusOr<const uint8_t*> address =
        options_.registered->DeviceAddress(tensor.shard, tensor.offset, tensor.span());
    if (!address.ok()) return address.status();
    weight.data = *address;
  }
  return absl::OkStatus();
}

absl::Status DeviceWeightLoader::PlaceMemory(DeviceArena& arena) {
  absl::MutexLock lock(&mutex_);
  residents_.resize(parts_.size());
  slots_.resize(plan_.summary.ring_slots);
  for (int slot = 0; slot < plan_.summary.ring_slots; ++slot) {
    absl::StatusOr<uint8_t*> memory = arena.Take(plan_.summary.slot_bytes, "ring");
    if (!memory.ok()) return memory.status();
    slot_memory_.push_back(*memory);
  }
  for (size_t part = 0; part < parts_.size(); ++part) {
    const DevicePart& plan = plan_.parts[part];
    if (!plan.resident.empty()) {
      // Kernels read whole vectors: behind the last tensor there is room for one.
      absl::StatusOr<uint8_t*> memory =
          arena.Take(DeviceArena::Rounded(plan.resident.memory_bytes) + DeviceArena::kAlignment,
                     "resident weights");
      if (!memory.ok()) return memory.status();
      resident_memory_[part] = *memory;
      BindTensors(plan.group, plan.resident, *memory, weights_[part]);
    }
    if (!plan.streamed.empty()) {
      BindTensors(plan.group, plan.streamed, slot_memory_[plan.slot], weights_[part]);
    }
    if (!plan.cached) continue;
    if (absl::Status status = BindCachedExperts(part); !status.ok()) return status;
  }
  for (std::vector<Arrival>* arrivals : {&residents_, &slots_}) {
    for (Arrival& arrival : *arrivals) {
      for (cudaEvent_t* event : {&arrival.arrived, &arrival.released}) {
        absl::Status status =
            CudaStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event");
        if (!status.ok()) return status;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceWeightLoader::PlaceEmbedding() {
  for (const ModelTensor& tensor : tensors_.groups[tensors_.input_group()]) {
    if (tensor.id != kTokenEmbedding) continue;
    Weight& weight = weights_[0][kTokenEmbedding];
    weight = {.type = tensor.type, .columns = tensor.columns, .rows = tensor.rows};
    if (options_.registered != nullptr) {
      absl::StatusOr<const uint8_t*> address =
          options_.registered->DeviceAddress(tensor.shard, tensor.offset, tensor.bytes);
      if (address.ok()) {
        weight.data = *address;
        continue;
      }
    }
    // A pinned copy: a step reads a few rows of it, over the link.
    void* memory = nullptr;
    absl::Status status = CudaStatus(cudaHostAlloc(&memory, tensor.bytes, cudaHostAllocMapped),
                                     "pinned memory for the embedding");
    if (!status.ok()) return status;
    pinned_embedding_ = static_cast<uint8_t*>(memory);
    pinned_bytes_ = tensor.bytes;
    status = source_.Read({{tensor.shard, tensor.offset, tensor.bytes, pinned_embedding_}},
                          absl::Now() + absl::Minutes(10));
    if (!status.ok()) return status;
    void* address = nullptr;
    status = CudaStatus(cudaHostGetDevicePointer(&address, memory, 0), "a device address");
    if (!status.ok()) return status;
    weight.data = static_cast<const uint8_t*>(address);
  }
  return absl::OkStatus();
}

absl::Status DeviceWeightLoader::MeasureLink(DeviceArena& arena) {
  if (slot_memory_.empty()) return absl::OkStatus();
  // Large enough to be at full speed, small enough to take milliseconds.
  const uint64_t bytes = std::min<uint64_t>(plan_.summary.slot_bytes, 32 << 20);
  void* pinned = nullptr;
  absl::Status status =
      CudaStatus(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault), "pinned memory");
  if (!status.ok()) return status;
  for (int i = 0; i < 3; ++i) {
    copy_clock_.Begin(-1, -1);
    cudaMemcpyAsync(slot_memory_[0], pinned, bytes, cudaMemcpyHostToDevice, device_.copy_stream());
    copy_clock_.End();
  }
  status = CudaStatus(cudaStreamSynchronize(device_.copy_stream()), "measuring the link");
  cudaFreeHost(pinned);
  for (const LaneClock::Interval& interval : copy_clock_.Harvest(nullptr)) {
    link_bytes_per_second_ = std::max(link_bytes_per_second_, bytes / interval.seconds);
  }
  return status;
}

void DeviceWeightLoader::Enqueue(int part, bool streamed) {
  absl::MutexLock lock(&mutex_);
  Arrival& arrival = ArrivalOf(part, streamed);
  arrival.part = part;
  arrival.enqueued = false;
  requests_.push_back({part, streamed, step_});
}

void DeviceWeightLoader::RunCopies() {
  absl::Status current = device_.MakeCurrent();
  while (true) {
    Request request;
    Arrival* arrival = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !requests_.empty();
      };
      mutex_.Await(absl::Condition(&due));
      if (stopping_) return;
      request = requests_.front();
      requests_.pop_front();
      arrival = &ArrivalOf(request.part, request.streamed);
    }
    absl::Status status = current.ok() ? Copy(request, *arrival) : current;
    absl::MutexLock lock(&mutex_);
    if (arrival->part != request.part) continue;  // it has been asked for something else since
    arrival->enqueued = true;
    arrival->status = std::move(status);
  }
}

absl::Status DeviceWeightLoader::Copy(const Request& request, Arrival& arrival) {
  const DevicePart& part = plan_.parts[request.part];
  const Transfer& transfer = request.streamed ? part.streamed : part.resident;
  uint8_t* const destination =
      request.streamed ? slot_memory_[part.slot] : resident_memory_[request.part];
  cudaStreamWaitEvent(device_.copy_stream(), arrival.released, 0);
  copy_clock_.Begin(request.step, request.part);
  absl::Status status = CopyWith(transfer, destination);
  copy_clock_.End();
  cudaEventRecord(arrival.arrived, device_.copy_stream());
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    copied_bytes_ += transfer.bytes;
  }
  return status;
}

absl::Status DeviceWeightLoader::CopyWith(const Transfer& transfer, uint8_t* destination) {
  const absl::Time deadline = absl::Now() + kPatience;
  absl::Status status = options_.transport->Copy(transfer.runs, destination, deadline);
  if (!absl::IsFailedPrecondition(status) || options_.fallback == nullptr) return status;
  absl::StatusOr<std::unique_ptr<DeviceTransport>> other = options_.fallback(status);
  if (!other.ok()) return other.status();
  {
    absl::MutexLock lock(&mutex_);
    fallback_reason_ = absl::StrCat("weights are copied through pinned memory (", (*other)->name(),
                                    ") because of: ", status.message());
  }
  options_.fallback = nullptr;
  // What the first one has registered stays so: the embedding may be read there.
  {
    absl::MutexLock lock(&mutex_);
    registered_transport_ = std::move(options_.transport);
    options_.transport = *std::move(other);
  }
  return options_.transport->Copy(transfer.runs, destination, deadline);
}

void DeviceWeightLoader::BeginStep(int rows, bool with_head, absl::Time deadline) {
  with_head_ = with_head;
  ++step_;
  large_ = IsLarge(rows);
  if (options_.host_experts != nullptr) options_.host_experts->BeginStep(deadline);
  // Small steps do not touch the ring.
  if (!plan_.expert_cache.empty() && !large_) return;
  for (int slot = 0; slot < static_cast<int>(slot_memory_.size()); ++slot) {
    bool expected;
    {
      absl::MutexLock lock(&mutex_);
      expected = slots_[slot].part == streamed_[slot];
    }
    // If not, the step before was given up half way.
    if (!expected) Enqueue(streamed_[slot], /*streamed=*/true);
  }
}

absl::Status DeviceWeightLoader::WaitFor(int part, bool streamed, absl::Time deadline) {
  for (int attempt = 0;; ++attempt) {
    {
      absl::MutexLock lock(&mutex_);
      Arrival& arrival = ArrivalOf(part, streamed);
      const auto enqueued = [&arrival] { return arrival.enqueued; };
      if (!mutex_.AwaitWithDeadline(absl::Condition(&enqueued), deadline)) {
        return absl::DeadlineExceededError("the weights did not arrive in time");
      }
      if (arrival.part == part && arrival.status.ok()) {
        return CudaStatus(cudaStreamWaitEvent(device_.compute_stream(), arrival.arrived, 0),
                          "waiting for weights");
      }
      // A copy ahead of its need may have failed long ago; one more try tells what is so now.
      if (attempt > 0 || absl::IsDataLoss(arrival.status)) return arrival.status;
    }
    Enqueue(part, streamed);
  }
}

absl::StatusOr<const LayerWeights*> DeviceWeightLoader::Acquire(int part, absl::Time deadline) {
  const DevicePart& plan = plan_.parts[part];
  if (!plan.resident.empty() && !resident_ready_[part]) {
    if (absl::Status status = WaitFor(part, false, deadline); !status.ok()) return status;
    resident_ready_[part] = true;
  }
  if (Streams(part)) {
    if (absl::Status status = WaitFor(part, true, deadline); !status.ok()) return status;
  }
  return plan.cached && !large_ ? &small_weights_[part] : &weights_[part];
}

int DeviceWeightLoader::PartAfter(int part) const {
  const int slots = static_cast<int>(slot_memory_.size());
  const size_t index = std::find(streamed_.begin(), streamed_.end(), part) - streamed_.begin();
  const size_t next = index + slots;
  if (next < streamed_.size()) {
    const bool is_head = parts_[streamed_[next]].group == tensors_.head_group();
    if (with_head_ || !is_head) return streamed_[next];
  }
  return streamed_[plan_.parts[part].slot];
}

void DeviceWeightLoader::Release(int part) {
  if (!Streams(part)) return;
  {
    absl::MutexLock lock(&mutex_);
    cudaEventRecord(slots_[plan_.parts[part].slot].released, device_.compute_stream());
  }
  Enqueue(PartAfter(part), /*streamed=*/true);
}

uint64_t DeviceWeightLoader::memory_bytes() const {
  absl::MutexLock lock(&mutex_);
  return pinned_bytes_ + options_.transport->pinned_bytes();
}

uint64_t DeviceWeightLoader::copied_bytes() const {
  absl::MutexLock lock(&mutex_);
  return copied_bytes_;
}

std::string DeviceWeightLoader::fallback_reason() const {
  absl::MutexLock lock(&mutex_);
  return fallback_reason_;
}

std::string DeviceWeightLoader::transport_name() const {
  absl::MutexLock lock(&mutex_);
  return std::string(options_.transport->name());
}

}  // namespace gguf_offload
