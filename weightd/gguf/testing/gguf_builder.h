// Writes small GGUF files in memory for tests, well-formed or damaged on purpose.
//
//   std::string file = GgufBuilder()
//                          .String("general.architecture", "llama")
//                          .Tensor("a", quant::TensorType::kF32, {4, 2}, GgufBuilder::Pattern(32))
//                          .Build();
#ifndef WEIGHTD_GGUF_TESTING_GGUF_BUILDER_H_
#define WEIGHTD_GGUF_TESTING_GGUF_BUILDER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/quant/format.h"
#include "weightd/gguf/gguf_file.h"

namespace gguf_offload::gguf {

class GgufBuilder {
 public:
  // The bytes of a number, and of a GGUF string (length first).
  template <typename T>
  static std::string Bytes(T number) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    return std::string(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  static std::string StringBytes(std::string_view text) {
    return Bytes<uint64_t>(text.size()).append(text);
  }
  // `count` bytes that differ from their neighbours.
  static std::string Pattern(size_t count, uint32_t seed = 1) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) byte = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
    return bytes;
  }

  GgufBuilder& Version(uint32_t version) {
    version_ = version;
    return *this;
  }
  // Claims of the header that are not true.
  GgufBuilder& ClaimMetadataCount(uint64_t count) {
    claimed_metadata_ = count;
    return *this;
  }
  GgufBuilder& ClaimTensorCount(uint64_t count) {
    claimed_tensors_ = count;
    return *this;
  }

  // A key with a value of any type number and any bytes.
  GgufBuilder& Raw(std::string_view key, uint32_t type, std::string_view value) {
    metadata_ += StringBytes(key) + Bytes(type);
    metadata_ += value;
    ++metadata_count_;
    return *this;
  }
  template <typename T>
  GgufBuilder& Number(std::string_view key, ValueType type, T number) {
    return Raw(key, static_cast<uint32_t>(type), Bytes(number));
  }
  GgufBuilder& Uint32(std::string_view key, uint32_t number) {
    return Number(key, ValueType::kUint32, number);
  }
  GgufBuilder& String(std::string_view key, std::string_view text) {
    return Raw(key, static_cast<uint32_t>(ValueType::kString), StringBytes(text));
  }
  // An array of `count` elements whose bytes are given.
  GgufBuilder& RawArray(std::string_view key, uint32_t element_type, uint64_t count,
                        std::string_view elements) {
    return Raw(key, static_cast<uint32_t>(ValueType::kArray),
               Bytes(element_type) + Bytes(count) + std::string(elements));
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& texts) {
    std::string bytes;
    for (const std::string& text : texts) bytes += StringBytes(text);
    return RawArray(key, static_cast<uint32_t>(ValueType::kString), texts.size(), bytes);
  }
  // Writes the key and pads accordingly.
  GgufBuilder& Alignment(uint32_t alignment) {
    alignment_ = alignment;
    return Uint32("general.alignment", alignment);
  }

  // A tensor record of any content, without data.
  GgufBuilder& RawTensor(std::string_view name, uint32_t dimension_count,
                         std::span<const uint64_t> dimensions, uint32_t type, uint64_t offset) {
    tensors_ += StringBytes(name) + Bytes(dimension_count);
    for (uint64_t dimension : dimensions) tensors_ += Bytes(dimension);
    tensors_ += Bytes(type) + Bytes(offset);
    ++tensor_count_;
    return *this;
  }
  GgufBuilder& RawTensor(std::string_view name, const std::vector<uint64_t>& dimensions,
                         uint32_t type, uint64_t offset) {
    return RawTensor(name, static_cast<uint32_t>(dimensions.size()), dimensions, type, offset);
  }
  // A tensor with its data at the next aligned offset.
  GgufBuilder& Tensor(std::string_view name, quant::TensorType type,
                      const std::vector<uint64_t>& dimensions, std::string_view data) {
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
    RawTensor(name, dimensions, static_cast<uint32_t>(type), data_.size());
    data_ += data;
    return *this;
  }
  // Bytes for the data part, for tensors made by RawTensor.
  GgufBuilder& Data(std::string_view data) {
    data_ += data;
    return *this;
  }

  // The file up to the padding, and the whole file.
  std::string BuildHeader() const {
    return "GGUF" + Bytes(version_) + Bytes(claimed_tensors_.value_or(tensor_count_)) +
           Bytes(claimed_metadata_.value_or(metadata_count_)) + metadata_ + tensors_;
  }
  std::string Build() const {
    std::string file = BuildHeader();
    file.resize((file.size() + alignment_ - 1) / alignment_ * alignment_);
    return file + data_;
  }

 private:
  uint32_t version_ = 3;
  size_t alignment_ = kDefaultAlignment;
  std::optional<uint64_t> claimed_metadata_;
  std::optional<uint64_t> claimed_tensors_;
  uint64_t metadata_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::string metadata_;
  std::string tensors_;
  std::string data_;
};

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_TESTING_GGUF_BUILDER_H_
