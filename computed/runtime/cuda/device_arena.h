// All GPU memory of a worker, allocated once.
#ifndef COMPUTED_RUNTIME_CUDA_DEVICE_ARENA_H_
#define COMPUTED_RUNTIME_CUDA_DEVICE_ARENA_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {

// Hands out pieces of one allocation, from its beginning to its end; they live as long as the
// arena. Not thread safe.
class DeviceArena {
 public:
  // Pieces begin at multiples of this. There is at least as much memory before the first and after
  // the last, so that kernels may read whole vectors where a piece begins or ends inside one.
  static constexpr uint64_t kAlignment = 256;
  // What a piece of `bytes` takes.
  static constexpr uint64_t Rounded(uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // An arena for pieces that are, rounded, `bytes` together.
  static absl::StatusOr<std::unique_ptr<DeviceArena>> Create(uint64_t bytes);
  ~DeviceArena();
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  // RESOURCE_EXHAUSTED, naming `purpose`, if less is left.
  absl::StatusOr<uint8_t*> Take(uint64_t bytes, absl::string_view purpose);
  uint64_t size() const { return size_; }

 private:
  DeviceArena() = default;

  uint8_t* base_ = nullptr;
  uint64_t size_ = 0;
  uint64_t taken_ = 0;
};

// Parts of one piece, as offsets into it: derived classes have a member for each.
class ArenaLayout {
 public:
  uint64_t bytes = 0;  // of all parts

 protected:
  // Where a part of `part_bytes` begins.
  uint64_t Add(uint64_t part_bytes) {
    const uint64_t begin = bytes;
    bytes += DeviceArena::Rounded(part_bytes);
    return begin;
  }
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_DEVICE_ARENA_H_
