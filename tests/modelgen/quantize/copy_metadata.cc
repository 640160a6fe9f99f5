#include "tests/modelgen/quantize/copy_metadata.h"

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace gguf_offload {
namespace {

using gguf::ValueType;

void CopyArray(std::string_view key, const gguf::Array& array, GgufWriter* writer) {
  if (array.element_type == ValueType::kBool) {  // parsed to bytes of 0 and 1
    const auto& bytes = std::get<std::vector<uint8_t>>(array.elements);
    writer->AddMetadata(key, std::vector<bool>(bytes.begin(), bytes.end()));
    return;
  }
  std::visit([&](const auto& elements) { writer->AddMetadata(key, elements); }, array.elements);
}

// The parser widens integers and floats; this takes them back to the file's type.
template <typename T, typename Wide>
void AddAs(std::string_view key, const gguf::Value& value, GgufWriter* writer) {
  writer->AddMetadata(key, static_cast<T>(std::get<Wide>(value.data)));
}

}  // namespace

void CopyMetadata(std::string_view key, const gguf::Value& value, GgufWriter* writer) {
  switch (value.type) {
    case ValueType::kUint8:
      return AddAs<uint8_t, uint64_t>(key, value, writer);
    case ValueType::kUint16:
      return AddAs<uint16_t, uint64_t>(key, value, writer);
    case ValueType::kUint32:
      return AddAs<uint32_t, uint64_t>(key, value, writer);
    case ValueType::kUint64:
      return AddAs<uint64_t, uint64_t>(key, value, writer);
    case ValueType::kInt8:
      return AddAs<int8_t, int64_t>(key, value, writer);
    case ValueType::kInt16:
      return AddAs<int16_t, int64_t>(key, value, writer);
    case ValueType::kInt32:
      return AddAs<int32_t, int64_t>(key, value, writer);
    case ValueType::kInt64:
      return AddAs<int64_t, int64_t>(key, value, writer);
    case ValueType::kFloat32:
      return AddAs<float, double>(key, value, writer);
    case ValueType::kFloat64:
      return AddAs<double, double>(key, value, writer);
    case ValueType::kBool:
      return AddAs<bool, bool>(key, value, writer);
    case ValueType::kString:
      return writer->AddMetadata(key, std::get<std::string>(value.data));
    case ValueType::kArray:
      return CopyArray(key, std::get<gguf::Array>(value.data), writer);
  }
}

}  // namespace gguf_offload
