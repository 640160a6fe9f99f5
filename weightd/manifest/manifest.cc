#include "weightd/manifest/manifest.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/quant/format.h"
#include "weightd/gguf/utf8.h"

namespace gguf_offload {
namespace {

void FillElements(const std::vector<std::string>& strings, v1::MetadataArray* out) {
  const bool text = std::all_of(strings.begin(), strings.end(),
                                [](const std::string& s) { return gguf::IsValidUtf8(s); });
  auto* values = text ? out->mutable_string_values() : out->mutable_bytes_values();
  values->Reserve(static_cast<int>(strings.size()));
  for (const std::string& string : strings) *values->Add() = string;
}

template <typename T>
void FillElements(const std::vector<T>& numbers, v1::MetadataArray* out) {
  if constexpr (std::is_same_v<T, float>) {
    out->mutable_float_values()->Add(numbers.begin(), numbers.end());
  } else if constexpr (std::is_same_v<T, double>) {
    out->mutable_double_values()->Add(numbers.begin(), numbers.end());
  } else if constexpr (std::is_signed_v<T>) {
    out->mutable_signed_values()->Add(numbers.begin(), numbers.end());
  } else {
    out->mutable_unsigned_values()->Add(numbers.begin(), numbers.end());
  }
}

void FillArray(const gguf::Array& array, bool elide_long, v1::MetadataArray* out) {
  out->set_length(array.size());
  out->set_element_type(static_cast<uint32_t>(array.element_type));
  if (elide_long && array.size() > kLongArray) {
    out->set_elided(true);
    return;
  }
  std::visit([&](const auto& elements) { FillElements(elements, out); }, array.elements);
}

std::string TypeName(quant::TensorType type) {
  const auto number = static_cast<uint32_t>(type);
  const quant::Format* format = quant::FindFormat(number);
  return format == nullptr ? absl::StrCat("UNKNOWN_", number) : std::string(format->name);
}

// One overload for each alternative of gguf::Value.
struct ValueFiller {
  v1::MetadataValue* out;
  bool elide_long_arrays;

  void operator()(uint64_t number) const { out->set_unsigned_value(number); }
  void operator()(int64_t number) const { out->set_signed_value(number); }
  void operator()(double number) const { out->set_float_value(number); }
  void operator()(bool value) const { out->set_bool_value(value); }
  void operator()(const std::string& text) const {
    if (gguf::IsValidUtf8(text)) {
      out->set_string_value(text);
    } else {
      out->set_bytes_value(text);
    }
  }
  void operator()(const gguf::Array& array) const {
    FillArray(array, elide_long_arrays, out->mutable_array_value());
  }
};

}  // namespace

v1::MetadataValue BuildMetadataValue(const gguf::Value& value, bool elide_long_arrays) {
  v1::MetadataValue message;
  std::visit(ValueFiller{&message, elide_long_arrays}, value.data);
  return message;
}

v1::TensorInfo BuildTensorInfo(const store::Model& model, size_t index) {
  const store::Model::Tensor& tensor = model.tensors()[index];
  v1::TensorInfo info;
  info.set_name(tensor.entry->name);
  info.set_type(static_cast<uint32_t>(tensor.entry->type));
  info.set_type_name(TypeName(tensor.entry->type));
  for (uint64_t dimension : tensor.entry->dimensions) info.add_dimensions(dimension);
  info.set_shard(tensor.shard);
  info.set_offset(tensor.entry->offset);
  info.set_bytes(tensor.entry->bytes);
  return info;
}

v1::Manifest BuildManifest(const store::Model& model, const ManifestOptions& options) {
  v1::Manifest manifest;
  manifest.set_name(model.name());
  manifest.set_generation(model.generation());
  manifest.set_gguf_version(model.header().version);
  // Proto strings are UTF-8; an architecture that is not text is none that anybody knows.
  if (gguf::IsValidUtf8(model.architecture())) manifest.set_architecture(model.architecture());
  for (const auto& [key, value] : model.header().metadata) {
    (*manifest.mutable_metadata())[key] = BuildMetadataValue(value, options.elide_long_arrays);
  }
  if (options.tensors) {
    manifest.mutable_tensors()->Reserve(static_cast<int>(model.tensors().size()));
    for (size_t i = 0; i < model.tensors().size(); ++i) {
      *manifest.add_tensors() = BuildTensorInfo(model, i);
    }
  }
  for (const store::Model::Shard& shard : model.shards()) {
    v1::ShardInfo* info = manifest.add_shards();
    const std::string name(shard.file->base_name());
    if (gguf::IsValidUtf8(name)) info->set_file_name(name);
    info->set_bytes(shard.file->size());
  }
  return manifest;
}

}  // namespace gguf_offload
