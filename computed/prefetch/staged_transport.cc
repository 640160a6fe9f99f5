#include <cuda_runtime_api.h>

#include <algorithm>
#include <deque>

#include "absl/synchronization/notification.h"
#include "computed/prefetch/device_transport.h"
#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {

// A chunk on its way into a buffer.
struct StagedTransport::Fill {
  Buffer* buffer;
  const uint8_t* source;  // in the buffer
  uint8_t* destination;
  uint64_t bytes;
  absl::Notification arrived;
  absl::Status status;  // once it has
};

absl::StatusOr<std::unique_ptr<StagedTransport>> StagedTransport::Create(
    const CudaDevice& device, std::unique_ptr<HostReader> reader) {
  std::unique_ptr<StagedTransport> transport(new StagedTransport(device, std::move(reader)));
  void* memory = nullptr;
  absl::Status status =
      CudaStatus(cudaHostAlloc(&memory, kBuffers * kBufferBytes, cudaHostAllocDefault),
                 "pinned memory for staging weights");
  if (!status.ok()) return status;
  transport->memory_ = static_cast<uint8_t*>(memory);
  for (int i = 0; i < kBuffers; ++i) {
    Buffer& buffer = transport->buffers_[i];
    buffer.memory = transport->memory_ + i * kBufferBytes;
    status =
        CudaStatus(cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming), "an event");
    if (!status.ok()) return status;
  }
  return transport;
}

StagedTransport::~StagedTransport() {
  reader_.reset();
  cudaStreamSynchronize(device_.copy_stream());
  for (Buffer& buffer : buffers_) {
    if (buffer.copied != nullptr) cudaEventDestroy(buffer.copied);
  }
  if (memory_ != nullptr) cudaFreeHost(memory_);
}

absl::Status StagedTransport::Copy(std::span<const FileRun> runs, uint8_t* destination,
                                   absl::Time deadline) {
  // Cut into chunks; as many as there are buffers are read at a time, and copied in order.
  std::deque<Fill> fills;
  absl::Status status;
  size_t run = 0;
  uint64_t done = 0;
  const auto start_next = [&] {
    const FileRun& from = runs[run];
    Buffer& buffer = buffers_[next_++ % kBuffers];
    status = CudaStatus(cudaEventSynchronize(buffer.copied), "a copy of weights to the GPU");
    if (!status.ok()) return;
    const uint64_t offset = from.offset + done;
    const uint64_t bytes = std::min(kChunkBytes, from.bytes - done);
    uint8_t* const memory =
        buffer.memory + HostReader::kAlignment + offset % HostReader::kAlignment;
    Fill& fill = fills.emplace_back();
    fill.buffer = &buffer;
    fill.source = memory;
    fill.destination = destination + from.destination + done;
    fill.bytes = bytes;
    reader_->ReadAsync({{from.shard, offset, bytes, memory}}, deadline,
                       [&fill](absl::Status status) {
                         fill.status = std::move(status);
                         fill.arrived.Notify();
                       });
    done += bytes;
    if (done == from.bytes) {
      ++run;
      done = 0;
    }
  };
  while (true) {
    while (status.ok() && run < runs.size() && fills.size() < kBuffers) start_next();
    if (fills.empty()) return status;
    Fill& first = fills.front();
    first.arrived.WaitForNotification();
    if (status.ok()) status = first.status;
    if (status.ok()) {
      status = CudaStatus(cudaMemcpyAsync(first.destination, first.source, first.bytes,
                                          cudaMemcpyHostToDevice, device_.copy_stream()),
                          "a copy of weights to the GPU");
      cudaEventRecord(first.buffer->copied, device_.copy_stream());
    }
    fills.pop_front();
  }
}

}  // namespace gguf_offload
