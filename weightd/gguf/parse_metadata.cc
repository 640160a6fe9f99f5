// The metadata records of a GGUF header.
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/header_parser.h"
#include "weightd/gguf/utf8.h"

namespace gguf_offload::gguf {

absl::Status HeaderParser::ReadMetadata() {
  // The index refers to the keys, so that they must not move: no growth after this.
  result_.metadata.reserve(metadata_count_);
  result_.key_index_.reserve(metadata_count_);
  for (uint64_t i = 0; i < metadata_count_; ++i) {
    StartRecord();
    auto& [key, value] = result_.metadata.emplace_back();
    if (absl::Status status = ReadName("metadata key", kMaxKeyBytes, &key); !status.ok()) {
      return status;
    }
    if (!result_.key_index_.emplace(key, i).second) {
      return Malformed("metadata key ", Quoted(key), " occurs twice");
    }
    if (absl::Status status = ReadValue(key, &value); !status.ok()) return status;
    if (key == "general.alignment") {
      if (absl::Status status = TakeAlignment(); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadName(std::string_view what, uint64_t most, std::string* name) {
  uint64_t length;
  if (!cursor_.Read(&length)) return Ends("no room for the length of a ", Text(what));
  if (length > cursor_.remaining())
    return Ends("no room for a ", Text(what), " of ", length, " bytes");
  if (length > most) {
    return Excessive("a ", Text(what), " of ", length, " bytes; at most ", most, " are supported");
  }
  if (length == 0) return Malformed("an empty ", Text(what));
  std::string_view text;
  if (!cursor_.ReadBytes(length, &text)) return Ends("no room for a ", Text(what));
  if (!IsPrintableUtf8(text)) {
    return Malformed("the ", Text(what), " ", Quoted(text),
                     " is not valid UTF-8 or has control characters");
  }
  name->assign(text);
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadString(std::string_view what, std::string* text) {
  uint64_t length;
  if (!cursor_.Read(&length)) return Ends(Quoted(what), ": no room for the length of a string");
  if (length > cursor_.remaining()) {
    return Ends(Quoted(what), ": no room for a string of ", length, " bytes");
  }
  if (length > kMaxStringBytes) {
    return Excessive(Quoted(what), ": a string of ", length, " bytes; at most ", kMaxStringBytes,
                     " are supported");
  }
  std::string_view bytes;
  if (!cursor_.ReadBytes(length, &bytes)) return Ends(Quoted(what), ": no room for a string");
  text->assign(bytes);
  return absl::OkStatus();
}

template <typename T, typename Wide>
absl::Status HeaderParser::ReadNumber(std::string_view key, Value* value) {
  T number;
  if (!cursor_.Read(&number)) return Ends(Quoted(key), ": no room for the value");
  value->data = static_cast<Wide>(number);
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadBool(std::string_view key, Value* value) {
  uint8_t byte;
  if (!cursor_.Read(&byte)) return Ends(Quoted(key), ": no room for the value");
  if (byte > 1) return Malformed(Quoted(key), ": a bool of value ", byte);
  value->data = byte == 1;
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadValue(std::string_view key, Value* value) {
  uint32_t type;
  if (!cursor_.Read(&type)) return Ends(Quoted(key), ": no room for the value's type");
  value->type = static_cast<ValueType>(type);
  switch (value->type) {
    case ValueType::kUint8:
      return ReadNumber<uint8_t, uint64_t>(key, value);
    case ValueType::kInt8:
      return ReadNumber<int8_t, int64_t>(key, value);
    case ValueType::kUint16:
      return ReadNumber<uint16_t, uint64_t>(key, value);
    case ValueType::kInt16:
      return ReadNumber<int16_t, int64_t>(key, value);
    case ValueType::kUint32:
      return ReadNumber<uint32_t, uint64_t>(key, value);
    case ValueType::kInt32:
      return ReadNumber<int32_t, int64_t>(key, value);
    case ValueType::kFloat32:
      return ReadNumber<float, double>(key, value);
    case ValueType::kBool:
      return ReadBool(key, value);
    case ValueType::kString:
      return ReadString(key, &value->data.emplace<std::string>());
    case ValueType::kArray:
      return ReadArray(key, &value->data.emplace<Array>());
    case ValueType::kUint64:
      return ReadNumber<uint64_t, uint64_t>(key, value);
    case ValueType::kInt64:
      return ReadNumber<int64_t, int64_t>(key, value);
    case ValueType::kFloat64:
      return ReadNumber<double, double>(key, value);
  }
  return Malformed(Quoted(key), ": unknown value type ", type);
}

template <typename T>
absl::Status HeaderParser::ReadNumbers(std::string_view key, uint64_t count, Array* array) {
  // Divides, as count * sizeof(T) may wrap; checked before anything of that size is allocated.
  if (count > cursor_.remaining() / sizeof(T)) {
    return Ends(Quoted(key), ": no room for an array of ", count, " elements of ", sizeof(T),
                " bytes");
  }
  auto& values = array->elements.emplace<std::vector<T>>(count);
  if (!cursor_.ReadArray(count, values.data())) return Ends(Quoted(key), ": no room for an array");
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadStrings(std::string_view key, uint64_t count, Array* array) {
  if (count > cursor_.remaining() / sizeof(uint64_t)) {
    return Ends(Quoted(key), ": no room for an array of ", count, " strings");
  }
  auto& strings = array->elements.emplace<std::vector<std::string>>();
  strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    if (absl::Status status = ReadString(key, &strings.emplace_back()); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadArray(std::string_view key, Array* array) {
  uint32_t type;
  uint64_t count;
  if (!cursor_.Read(&type)) return Ends(Quoted(key), ": no room for the elements' type");
  if (!cursor_.Read(&count)) return Ends(Quoted(key), ": no room for the array's length");
  array->element_type = static_cast<ValueType>(type);
  switch (array->element_type) {
    case ValueType::kUint8:
      return ReadNumbers<uint8_t>(key, count, array);
    case ValueType::kInt8:
      return ReadNumbers<int8_t>(key, count, array);
    case ValueType::kUint16:
      return ReadNumbers<uint16_t>(key, count, array);
    case ValueType::kInt16:
      return ReadNumbers<int16_t>(key, count, array);
    case ValueType::kUint32:
      return ReadNumbers<uint32_t>(key, count, array);
    case ValueType::kInt32:
      return ReadNumbers<int32_t>(key, count, array);
    case ValueType::kFloat32:
      return ReadNumbers<float>(key, count, array);
    case ValueType::kBool: {
      if (absl::Status status = ReadNumbers<uint8_t>(key, count, array); !status.ok()) {
        return status;
      }
      for (uint8_t byte : std::get<std::vector<uint8_t>>(array->elements)) {
        if (byte > 1) return Malformed(Quoted(key), ": a bool of value ", byte);
      }
      return absl::OkStatus();
    }
    case ValueType::kString:
      return ReadStrings(key, count, array);
    case ValueType::kArray:
      return absl::UnimplementedError(Message(Quoted(key), ": arrays of arrays are not supported"));
    case ValueType::kUint64:
      return ReadNumbers<uint64_t>(key, count, array);
    case ValueType::kInt64:
      return ReadNumbers<int64_t>(key, count, array);
    case ValueType::kFloat64:
      return ReadNumbers<double>(key, count, array);
  }
  return Malformed(Quoted(key), ": unknown type of array elements ", type);
}

absl::Status HeaderParser::TakeAlignment() {
  const Value& value = result_.metadata.back().second;
  if (value.type != ValueType::kUint32) {
    return Malformed("'general.alignment' is of type ", Text(ValueTypeName(value.type)),
                     " instead of uint32");
  }
  const uint64_t alignment = std::get<uint64_t>(value.data);
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
    return Malformed("'general.alignment' is ", alignment, " instead of a power of two from 1 to ",
                     kMaxAlignment);
  }
  result_.alignment = static_cast<uint32_t>(alignment);
  return absl::OkStatus();
}

}  // namespace gguf_offload::gguf
