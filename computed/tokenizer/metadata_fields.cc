#include "computed/tokenizer/metadata_fields.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/log/log.h"

namespace gguf_offload {
namespace {

// GGUF value types (GGUF specification, gguf_metadata_value_type).
constexpr uint32_t kGgufInt32 = 5;  // this and below: integers of up to 32 bits
constexpr uint32_t kGgufFloat32 = 6;
constexpr uint32_t kGgufString = 8;
constexpr uint32_t kGgufUint64 = 10;
constexpr uint32_t kGgufInt64 = 11;

bool IsIntegerType(uint32_t type) {
  return type <= kGgufInt32 || type == kGgufUint64 || type == kGgufInt64;
}

const v1::MetadataValue* Find(const v1::Manifest& manifest, const std::string& key) {
  const auto it = manifest.metadata().find(key);
  return it == manifest.metadata().end() ? nullptr : &it->second;
}

absl::Status WrongType(const std::string& key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": is not ", wanted));
}

// The array under `key`, or null if the key is absent.
absl::StatusOr<const v1::MetadataArray*> FindArray(const v1::Manifest& manifest,
                                                   const std::string& key) {
  const v1::MetadataValue* value = Find(manifest, key);
  if (value == nullptr) return nullptr;
  if (!value->has_array_value()) return WrongType(key, "an array");
  if (value->array_value().elided()) {
    return absl::InvalidArgumentError(absl::StrCat(key, ": the manifest leaves the elements out"));
  }
  return &value->array_value();
}

// The message says how long the array is and also carries the elements; they must agree.
absl::Status CheckLength(const std::string& key, const v1::MetadataArray& array, int filled) {
  if (array.length() == static_cast<uint64_t>(filled)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, ": array of ", array.length(),
                                                 " elements of type ", array.element_type(),
                                                 " carries ", filled, " of the wanted type"));
}

}  // namespace

absl::StatusOr<std::optional<std::string>> ReadString(const v1::Manifest& manifest,
                                                      const std::string& key) {
  const v1::MetadataValue* value = Find(manifest, key);
  if (value == nullptr) return std::nullopt;
  if (!value->has_string_value()) return WrongType(key, "a string of valid UTF-8");
  return value->string_value();
}

absl::StatusOr<std::optional<bool>> ReadBool(const v1::Manifest& manifest, const std::string& key) {
  const v1::MetadataValue* value = Find(manifest, key);
  if (value == nullptr) return std::nullopt;
  if (!value->has_bool_value()) return WrongType(key, "a bool");
  return value->bool_value();
}

absl::StatusOr<std::optional<int32_t>> ReadTokenId(const v1::Manifest& manifest,
                                                   const std::string& key, int32_t vocab_size) {
  const v1::MetadataValue* value = Find(manifest, key);
  if (value == nullptr) return std::nullopt;
  uint64_t id = 0;
  if (value->has_unsigned_value()) {
    id = value->unsigned_value();
  } else if (value->has_signed_value()) {
    id = static_cast<uint64_t>(value->signed_value());  // a negative one is out of range as well
  } else {
    return WrongType(key, "a token id");
  }
  if (id >= static_cast<uint64_t>(vocab_size)) {
    Log(LogLevel::kWarning, "special token ignored, its id is out of range",
        {{"key", key},
         {"id",
          value->has_unsigned_value() ? absl::StrCat(id) : absl::StrCat(value->signed_value())},
         {"tokens", vocab_size}});
    return std::nullopt;
  }
  return static_cast<int32_t>(id);
}

absl::StatusOr<std::optional<std::vector<std::string>>> ReadStrings(const v1::Manifest& manifest,
                                                                    const std::string& key) {
  const absl::StatusOr<const v1::MetadataArray*> found = FindArray(manifest, key);
  if (!found.ok()) return found.status();
  if (*found == nullptr) return std::nullopt;
  const v1::MetadataArray& array = **found;
  if (array.element_type() != kGgufString) return WrongType(key, "an array of strings");
  std::vector<std::string> strings(array.string_values().begin(), array.string_values().end());
  strings.insert(strings.end(), array.bytes_values().begin(), array.bytes_values().end());
  const absl::Status length =
      CheckLength(key, array, array.string_values_size() + array.bytes_values_size());
  if (!length.ok()) return length;
  return strings;
}

absl::StatusOr<std::optional<std::vector<float>>> ReadFloats(const v1::Manifest& manifest,
                                                             const std::string& key) {
  const absl::StatusOr<const v1::MetadataArray*> found = FindArray(manifest, key);
  if (!found.ok()) return found.status();
  if (*found == nullptr) return std::nullopt;
  const v1::MetadataArray& array = **found;
  if (IsIntegerType(array.element_type())) {
    const absl::StatusOr<std::optional<std::vector<int64_t>>> integers =
        ReadIntegers(manifest, key);
    if (!integers.ok()) return integers.status();
    return std::vector<float>((*integers)->begin(), (*integers)->end());
  }
  if (array.element_type() != kGgufFloat32) {
    return WrongType(key, "an array of float32 or of integers");
  }
  const absl::Status length = CheckLength(key, array, array.float_values_size());
  if (!length.ok()) return length;
  return std::vector<float>(array.float_values().begin(), array.float_values().end());
}

absl::StatusOr<std::optional<std::vector<int64_t>>> ReadIntegers(const v1::Manifest& manifest,
                                                                 const std::string& key) {
  const absl::StatusOr<const v1::MetadataArray*> found = FindArray(manifest, key);
  if (!found.ok()) return found.status();
  if (*found == nullptr) return std::nullopt;
  const v1::MetadataArray& array = **found;
  if (!IsIntegerType(array.element_type())) return WrongType(key, "an array of integers");
  const absl::Status length =
      CheckLength(key, array, array.signed_values_size() + array.unsigned_values_size());
  if (!length.ok()) return length;
  std::vector<int64_t> integers(array.signed_values().begin(), array.signed_values().end());
  constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max();
  for (uint64_t value : array.unsigned_values()) {
    integers.push_back(static_cast<int64_t>(std::min(value, kLargest)));
  }
  return integers;
}

}  // namespace gguf_offload
