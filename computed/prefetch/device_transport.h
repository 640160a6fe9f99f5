// Ways of the model's bytes to a GPU: DMA straight from the mapped files, or through a ring of
// pinned memory that a HostReader fills.
#ifndef COMPUTED_PREFETCH_DEVICE_TRANSPORT_H_
#define COMPUTED_PREFETCH_DEVICE_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "computed/placement/transfer.h"
#include "computed/prefetch/host_reader.h"
#include "computed/runtime/cuda/cuda_device.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// One thread copies.
class DeviceTransport {
 public:
  // Waits for copies under way.
  virtual ~DeviceTransport() = default;

  virtual absl::string_view name() const = 0;
  // Puts copies of `runs` to `destination` (device memory) on the device's copy stream; what is put
  // on the stream afterwards follows them. May wait for bytes to arrive in host memory, until
  // `deadline`. On an error some of the copies may have been put.
  virtual absl::Status Copy(std::span<const FileRun> runs, uint8_t* destination,
                            absl::Time deadline) = 0;
  // Bytes of the host's memory that it holds.
  virtual uint64_t pinned_bytes() const = 0;
};

// Copies from the source's mappings, which are registered with CUDA piece by piece when they are
// first needed, while copies of pieces before are under way. A copy never crosses from a piece into
// another: CUDA refuses that. Files that CUDA will not register (limits on locked memory, file
// systems) make Copy fail with FAILED_PRECONDITION, every time.
class RegisteredTransport : public DeviceTransport {
 public:
  // FAILED_PRECONDITION if the source streams or the device cannot register read-only memory.
  static absl::StatusOr<std::unique_ptr<RegisteredTransport>> Create(const CudaDevice& device,
                                                                     const WeightSource& source);
  ~RegisteredTransport() override;

  absl::string_view name() const override { return "registered"; }
  absl::Status Copy(std::span<const FileRun> runs, uint8_t* destination,
                    absl::Time deadline) override;
  uint64_t pinned_bytes() const override { return 0; }  // the pages are the files'

  // The device's address of bytes of a file, for kernels that read them where they lie.
  absl::StatusOr<const uint8_t*> DeviceAddress(uint32_t shard, uint64_t offset, uint64_t bytes);

 private:
  static constexpr uint64_t kPieceBytes = uint64_t{256} << 20;

  RegisteredTransport(const CudaDevice& device, const WeightSource& source)
      : device_(device), source_(source) {}
  absl::Status Register(uint32_t shard, uint64_t piece);

  const CudaDevice& device_;
  const WeightSource& source_;
  std::vector<std::vector<bool>> registered_;  // (shards, pieces)
};

// Copies from a ring of pinned buffers, which `reader` fills ahead.
class StagedTransport : public DeviceTransport {
 public:
  // `device` must outlive the transport.
  static absl::StatusOr<std::unique_ptr<StagedTransport>> Create(
      const CudaDevice& device, std::unique_ptr<HostReader> reader);
  ~StagedTransport() override;

  absl::string_view name() const override { return reader_->name(); }
  absl::Status Copy(std::span<const FileRun> runs, uint8_t* destination,
                    absl::Time deadline) override;
  uint64_t pinned_bytes() const override { return kBuffers * kBufferBytes; }

 private:
  static constexpr int kBuffers = 6;
  static constexpr uint64_t kChunkBytes = uint64_t{8} << 20;
  // A chunk keeps its offset modulo the reader's alignment, and the reader its window.
  static constexpr uint64_t kBufferBytes = kChunkBytes + 2 * HostReader::kAlignment;

  struct Buffer {
    uint8_t* memory = nullptr;
    cudaEvent_t copied = nullptr;  // the last copy from it is done
  };
  struct Fill;

  StagedTransport(const CudaDevice& device, std::unique_ptr<HostReader> reader)
      : device_(device), reader_(std::move(reader)) {}

  const CudaDevice& device_;
  std::unique_ptr<HostReader> reader_;
  uint8_t* memory_ = nullptr;
  Buffer buffers_[kBuffers];
  size_t next_ = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_DEVICE_TRANSPORT_H_
