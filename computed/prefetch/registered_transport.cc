#include <cuda_runtime_api.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "computed/prefetch/device_transport.h"
#include "computed/runtime/cuda/cuda_status.h"

namespace gguf_offload {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<RegisteredTransport>> RegisteredTransport::Create(
    const CudaDevice& device, const WeightSource& source) {
  std::unique_ptr<RegisteredTransport> transport(new RegisteredTransport(device, source));
  for (int shard = 0; shard < source.manifest().shards_size(); ++shard) {
    if (source.MappedShard(shard) == nullptr) {
      return absl::FailedPreconditionError("the weights are not mapped into this process");
    }
    const uint64_t bytes = source.manifest().shards(shard).bytes();
    transport->registered_.emplace_back((bytes + kPieceBytes - 1) / kPieceBytes, false);
  }
  int supported = 0;
  cudaDeviceGetAttribute(&supported, cudaDevAttrHostRegisterReadOnlySupported, 0);
  if (supported == 0) {
    return absl::FailedPreconditionError("the GPU cannot register read-only memory");
  }
  return transport;
}

RegisteredTransport::~RegisteredTransport() {
  cudaStreamSynchronize(device_.copy_stream());
  for (size_t shard = 0; shard < registered_.size(); ++shard) {
    for (size_t piece = 0; piece < registered_[shard].size(); ++piece) {
      if (!registered_[shard][piece]) continue;
      cudaHostUnregister(const_cast<uint8_t*>(source_.MappedShard(shard) + piece * kPieceBytes));
    }
  }
}

absl::Status RegisteredTransport::Register(uint32_t shard, uint64_t piece) {
  if (registered_[shard][piece]) return absl::OkStatus();
  const uint64_t file_bytes = source_.manifest().shards(shard).bytes();
  const uint64_t begin = piece * kPieceBytes;
  // Whole pages: the last one of the file is mapped as a whole.
  const uint64_t bytes = std::min(kPieceBytes, (file_bytes - begin + kPage - 1) / kPage * kPage);
  const cudaError_t error = cudaHostRegister(
      const_cast<uint8_t*>(source_.MappedShard(shard) + begin), bytes, cudaHostRegisterReadOnly);
  if (error != cudaSuccess) {
    cudaGetLastError();  // it is told here, and must not be found again by others
    return absl::FailedPreconditionError(absl::StrCat(
        "registering bytes ", begin, " to ", begin + bytes, " of ",
        source_.manifest().shards(shard).file_name(), " with CUDA: ", cudaGetErrorString(error)));
  }
  registered_[shard][piece] = true;
  return absl::OkStatus();
}

absl::Status RegisteredTransport::Copy(std::span<const FileRun> runs, uint8_t* destination,
                                       absl::Time deadline) {
  for (const FileRun& run : runs) {
    for (uint64_t done = 0; done < run.bytes;) {
      const uint64_t offset = run.offset + done;
      const uint64_t piece = offset / kPieceBytes;
      const uint64_t bytes = std::min(run.bytes - done, (piece + 1) * kPieceBytes - offset);
      if (absl::Status status = Register(run.shard, piece); !status.ok()) return status;
      absl::Status status =
          CudaStatus(cudaMemcpyAsync(destination + run.destination + done,
                                     source_.MappedShard(run.shard) + offset, bytes,
                                     cudaMemcpyHostToDevice, device_.copy_stream()),
                     "a copy of weights to the GPU");
      if (!status.ok()) return status;
      done += bytes;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const uint8_t*> RegisteredTransport::DeviceAddress(uint32_t shard, uint64_t offset,
                                                                  uint64_t bytes) {
  const uint8_t* first = nullptr;
  for (uint64_t piece = offset / kPieceBytes; piece * kPieceBytes < offset + bytes; ++piece) {
    if (absl::Status status = Register(shard, piece); !status.ok()) return status;
    const uint8_t* const host = source_.MappedShard(shard) + piece * kPieceBytes;
    void* device = nullptr;
    absl::Status status = CudaStatus(
        cudaHostGetDevicePointer(&device, const_cast<uint8_t*>(host), 0), "a device address");
    if (!status.ok()) return status;
    // Pieces are used as one range only where the GPU sees them as the host does.
    const uint8_t* const base = static_cast<uint8_t*>(device) - piece * kPieceBytes;
    if (first == nullptr) first = base;
    if (first != base) {
      return absl::FailedPreconditionError("the GPU maps pieces of a file far from each other");
    }
  }
  return first + offset;
}

}  // namespace gguf_offload
