// Memory of the process in whole pages.
#ifndef COMPUTED_RUNTIME_HOST_BUFFER_H_
#define COMPUTED_RUNTIME_HOST_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace gguf_offload {

// Zeroed memory in whole pages, aligned to them; pages that are never touched cost nothing.
class HostBuffer {
 public:
  HostBuffer() = default;
  static absl::StatusOr<HostBuffer> Allocate(size_t bytes);
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  ~HostBuffer();

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_HOST_BUFFER_H_
