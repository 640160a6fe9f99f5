// A file mapped for reading.
#ifndef TESTS_MODELGEN_QUANTIZE_MAPPED_INPUT_H_
#define TESTS_MODELGEN_QUANTIZE_MAPPED_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace gguf_offload {

// Owns the mapping. The file must not be cut while it exists. Movable; safe from any thread.
class MappedInput {
 public:
  // NOT_FOUND and the like if the file cannot be opened; INVALID_ARGUMENT if it is empty or no
  // regular file.
  static absl::StatusOr<MappedInput> Open(const std::string& path);

  MappedInput(MappedInput&& other) noexcept;
  MappedInput& operator=(MappedInput&&) = delete;
  ~MappedInput();

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  MappedInput(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  const uint8_t* data_;
  size_t size_;
};

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_MAPPED_INPUT_H_
