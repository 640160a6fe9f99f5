#include "computed/tokenizer/testing/manifests.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

namespace gguf_offload {
namespace {

using nlohmann::json;

// GGUF value types (GGUF specification).
enum { kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };

bool IsSigned(int type) { return type == 1 || type == 3 || type == kInt32 || type == 11; }

v1::MetadataValue Convert(const json& entry) {
  const int type = entry.at("type");
  const json& value = entry.at("value");
  v1::MetadataValue result;
  if (type == kString) {
    result.set_string_value(value.get<std::string>());
  } else if (type == kBool) {
    result.set_bool_value(value);
  } else if (type == kFloat32 || type == 12) {
    result.set_float_value(value);
  } else if (type == kArray) {
    v1::MetadataArray* array = result.mutable_array_value();
    const int element_type = value.at("element_type");
    array->set_element_type(element_type);
    array->set_length(value.at("values").size());
    for (const json& element : value.at("values")) {
      if (element_type == kString) {
        array->add_string_values(element.get<std::string>());
      } else if (element_type == kFloat32) {
        array->add_float_values(element);
      } else if (IsSigned(element_type)) {
        array->add_signed_values(element);
      } else {
        array->add_unsigned_values(element);
      }
    }
  } else if (IsSigned(type)) {
    result.set_signed_value(value);
  } else {
    result.set_unsigned_value(value);
  }
  return result;
}

v1::MetadataArray* NewArray(v1::Manifest* manifest, const std::string& key, int element_type,
                            size_t length) {
  v1::MetadataArray* array = (*manifest->mutable_metadata())[key].mutable_array_value();
  array->Clear();
  array->set_element_type(element_type);
  array->set_length(length);
  return array;
}

}  // namespace

v1::Manifest LoadGoldenManifest(const std::string& gguf_name) {
  const std::string path = "computed/tokenizer/testing/" + gguf_name + ".json";
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "cannot open %s\n", path.c_str());
    std::abort();
  }
  v1::Manifest manifest;
  const json metadata = json::parse(file);
  for (const auto& [key, entry] : metadata.items()) {
    (*manifest.mutable_metadata())[key] = Convert(entry);
  }
  return manifest;
}

void SetString(v1::Manifest* manifest, const std::string& key, const std::string& value) {
  (*manifest->mutable_metadata())[key].set_string_value(value);
}

void SetBool(v1::Manifest* manifest, const std::string& key, bool value) {
  (*manifest->mutable_metadata())[key].set_bool_value(value);
}

void SetUnsigned(v1::Manifest* manifest, const std::string& key, uint64_t value) {
  (*manifest->mutable_metadata())[key].set_unsigned_value(value);
}

void SetStrings(v1::Manifest* manifest, const std::string& key,
                const std::vector<std::string>& values) {
  // As weightd does it: one string that is no UTF-8 makes all of them bytes. Here all of them are,
  // since tests use such strings on purpose.
  v1::MetadataArray* array = NewArray(manifest, key, kString, values.size());
  for (const std::string& value : values) array->add_bytes_values(value);
}

void SetFloats(v1::Manifest* manifest, const std::string& key, const std::vector<float>& values) {
  v1::MetadataArray* array = NewArray(manifest, key, kFloat32, values.size());
  for (float value : values) array->add_float_values(value);
}

void SetInts(v1::Manifest* manifest, const std::string& key, const std::vector<int64_t>& values) {
  v1::MetadataArray* array = NewArray(manifest, key, kInt32, values.size());
  for (int64_t value : values) array->add_signed_values(value);
}

v1::Manifest SentencePieceManifest(const std::vector<TestToken>& tokens) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types = {2, 3, 3};
  std::vector<float> scores(259, 0.0f);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    texts.push_back(text);
    types.push_back(6);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    texts.push_back(tokens[i].first);
    types.push_back(tokens[i].second);
    scores.push_back(-static_cast<float>(i));
  }
  v1::Manifest manifest;
  SetString(&manifest, "tokenizer.ggml.model", "llama");
  SetStrings(&manifest, "tokenizer.ggml.tokens", texts);
  SetFloats(&manifest, "tokenizer.ggml.scores", scores);
  SetInts(&manifest, "tokenizer.ggml.token_type", types);
  return manifest;
}

std::string ByteCharacter(uint8_t byte) {
  auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
  };
  int code = byte;
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

v1::Manifest BpeManifest(const std::string& pre, const std::vector<TestToken>& tokens,
                         const std::vector<std::string>& merges) {
  std::vector<std::string> texts;
  std::vector<int64_t> types(256, 1);
  for (int byte = 0; byte < 256; ++byte) texts.push_back(ByteCharacter(byte));
  for (const auto& [text, type] : tokens) {
    texts.push_back(text);
    types.push_back(type);
  }
  v1::Manifest manifest;
  SetString(&manifest, "tokenizer.ggml.model", "gpt2");
  SetString(&manifest, "tokenizer.ggml.pre", pre);
  SetStrings(&manifest, "tokenizer.ggml.tokens", texts);
  SetInts(&manifest, "tokenizer.ggml.token_type", types);
  SetStrings(&manifest, "tokenizer.ggml.merges", merges);
  return manifest;
}

}  // namespace gguf_offload
