// Parses the header of a GGUF file: metadata and the table of tensors.
//
// The format is that of github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian:
//
//   "GGUF"  uint32 version  uint64 tensor_count  uint64 metadata_count
//   metadata_count x { string key, uint32 value_type, value }
//   tensor_count   x { string name, uint32 n_dimensions, uint64 dimensions[], uint32 type,
//                      uint64 offset }
//   padding up to a multiple of the alignment ("general.alignment", 32 if absent)
//   tensor data; each tensor's `offset` counts from here
//
// where a string is a uint64 length and that many bytes, and an array is a uint32 element type, a
// uint64 count and the elements.
//
// Files are hostile: every count, length and offset is checked against what the file really holds
// before it is used, so that any sequence of bytes yields either a GgufFile or an error that names
// the file and the offset. Time is linear in the header's size and memory at most about ten times
// that size, which is itself limited (kMaxHeaderBytes). Tensor data is not touched.
#ifndef WEIGHTD_GGUF_GGUF_FILE_H_
#define WEIGHTD_GGUF_GGUF_FILE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/quant/format.h"

namespace gguf_offload::gguf {

// Limits on what a header may claim. Real files stay far below: vocabularies of 260,000 tokens need
// about 10 MiB, chat templates some 100 KiB, the largest models 20,000 tensors over all shards.
inline constexpr uint64_t kMaxHeaderBytes = uint64_t{256} << 20;
inline constexpr uint64_t kMaxMetadataCount = uint64_t{4} << 20;
inline constexpr uint64_t kMaxTensorCount = uint64_t{1} << 20;
inline constexpr uint64_t kMaxKeyBytes = 65535;  // as in the specification
inline constexpr uint64_t kMaxStringBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMaxTensorNameBytes = 1024;
inline constexpr uint64_t kMaxDimension = uint64_t{1} << 40;
inline constexpr uint32_t kMaxDimensions = 4;
inline constexpr uint32_t kMaxAlignment = uint32_t{1} << 20;
inline constexpr uint32_t kDefaultAlignment = 32;

// GGUF's numbers for the types of metadata values.
enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// "uint8", ..., "float64"; "unknown" for numbers that are none of these.
std::string_view ValueTypeName(ValueType type);

// An array of numbers, bools or strings. `elements` holds the alternative that element_type asks
// for; bools are stored as uint8_t 0 or 1. Strings need not be valid UTF-8.
struct Array {
  ValueType element_type = ValueType::kUint8;
  std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
               std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
               std::vector<float>, std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string>>
      elements;

  size_t size() const;
};

// A metadata value. Integers and floats are widened without loss; `type` says what the file has.
// A string need not be valid UTF-8.
struct Value {
  ValueType type = ValueType::kUint8;
  std::variant<uint64_t, int64_t, double, bool, std::string, Array> data;
};

// A tensor as the file describes it, checked to lie inside the file.
struct TensorEntry {
  std::string name;  // valid UTF-8, not empty, unique in the file
  // As in the file: may be a number that is none of TensorType's names. Only FindFormat takes
  // those.
  quant::TensorType type = quant::TensorType::kF32;
  std::vector<uint64_t> dimensions;  // 1 to 4, fastest first: {columns, rows, ...}; 0: empty
  uint64_t offset = 0;               // bytes from the start of the file
  // Size; offset + bytes <= file size. What a tensor of unknown or retired type takes cannot be
  // told: all up to the next tensor that is not empty, or to the end of the file.
  uint64_t bytes = 0;

  // Whether a dimension is 0; `bytes` is 0 then, and only then.
  bool empty() const;
};

// A parsed header. Owns copies of everything (nothing refers to the parsed bytes). Movable, not
// copyable, as the indices refer to the names. Const methods are safe from any thread.
class GgufFile {
 public:
  GgufFile() = default;
  GgufFile(GgufFile&&) = default;
  GgufFile& operator=(GgufFile&&) = default;
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  // The value of a key, or nullptr. Constant time.
  const Value* Find(std::string_view key) const;
  // The tensor of that name, or nullptr. Constant time.
  const TensorEntry* FindTensor(std::string_view name) const;

  // Values of well-typed keys; nullptr or nothing if absent or of another type. FindUnsigned takes
  // every integer type whose value is not negative.
  const std::string* FindString(std::string_view key) const;
  std::optional<uint64_t> FindUnsigned(std::string_view key) const;

  uint32_t version = 0;
  uint32_t alignment = kDefaultAlignment;
  std::vector<std::pair<std::string, Value>> metadata;  // in the file's order
  std::vector<TensorEntry> tensors;                     // in the file's order
  uint64_t data_offset = 0;  // where tensor data begins, counted from the start of the file

 private:
  friend class HeaderParser;

  absl::flat_hash_map<std::string_view, size_t> key_index_;     // into metadata
  absl::flat_hash_map<std::string_view, size_t> tensor_index_;  // into tensors
};

// Parses `file`, all bytes of a GGUF file (typically a mapping). `file_name` is for messages.
// Errors: INVALID_ARGUMENT (malformed), UNIMPLEMENTED (version 1 or a future one, big-endian),
// RESOURCE_EXHAUSTED (beyond the limits above); all name the file and the offset.
absl::StatusOr<GgufFile> ParseGguf(std::span<const uint8_t> file, std::string_view file_name);

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_GGUF_FILE_H_
