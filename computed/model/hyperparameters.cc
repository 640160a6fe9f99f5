#include "computed/model/hyperparameters.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "computed/model/read_or_return.h"

namespace gguf_offload {
namespace {

constexpr int64_t kMaxLayers = 512;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;

// The value of an integer or of an array of equal integers.
absl::StatusOr<int64_t> AsInteger(const v1::MetadataValue& value) {
  switch (value.value_case()) {
    case v1::MetadataValue::kUnsignedValue:
      if (value.unsigned_value() > static_cast<uint64_t>(INT64_MAX)) break;
      return static_cast<int64_t>(value.unsigned_value());
    case v1::MetadataValue::kSignedValue:
      return value.signed_value();
    case v1::MetadataValue::kArrayValue: {
      const v1::MetadataArray& array = value.array_value();
      std::vector<int64_t> values(array.signed_values().begin(), array.signed_values().end());
      for (uint64_t element : array.unsigned_values()) {
        values.push_back(static_cast<int64_t>(element));
      }
      if (values.empty()) return absl::InvalidArgumentError("is not an integer");
      for (int64_t element : values) {
        if (element != values[0]) {
          return absl::UnimplementedError("differs between layers, which is not supported");
        }
      }
      return values[0];
    }
    default:
      break;
  }
  return absl::InvalidArgumentError("is not an integer");
}

}  // namespace

Metadata::Metadata(const v1::Manifest& manifest) : manifest_(manifest) {}

const v1::MetadataValue* Metadata::Find(absl::string_view key) const {
  const auto& metadata = manifest_.metadata();
  auto it = metadata.find(absl::StrCat(manifest_.architecture(), ".", key));
  return it == metadata.end() ? nullptr : &it->second;
}

absl::Status Metadata::Error(absl::string_view key, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat("model '", manifest_.name(), "': metadata key ",
                                                 manifest_.architecture(), ".", key, " ", what));
}

absl::StatusOr<int64_t> Metadata::Integer(absl::string_view key, int64_t min, int64_t max) const {
  const v1::MetadataValue* value = Find(key);
  if (value == nullptr) return Error(key, "is missing");
  absl::StatusOr<int64_t> integer = AsInteger(*value);
  if (!integer.ok()) return Error(key, integer.status().message());
  if (*integer < min || *integer > max) {
    return Error(key, absl::StrCat("is ", *integer, ", not within ", min, " to ", max));
  }
  return *integer;
}

absl::StatusOr<int64_t> Metadata::IntegerOr(absl::string_view key, int64_t fallback, int64_t min,
                                            int64_t max) const {
  return Has(key) ? Integer(key, min, max) : fallback;
}

absl::StatusOr<double> Metadata::Number(absl::string_view key, double min, double max) const {
  const v1::MetadataValue* value = Find(key);
  if (value == nullptr) return Error(key, "is missing");
  double number;
  if (value->value_case() == v1::MetadataValue::kFloatValue) {
    number = value->float_value();
  } else {
    absl::StatusOr<int64_t> integer = AsInteger(*value);
    if (!integer.ok()) return Error(key, "is not a number");
    number = static_cast<double>(*integer);
  }
  // Written so that NaN fails.
  if (!(number >= min && number <= max)) {
    return Error(key, absl::StrCat("is ", number, ", not within ", min, " to ", max));
  }
  return number;
}

absl::StatusOr<double> Metadata::NumberOr(absl::string_view key, double fallback, double min,
                                          double max) const {
  return Has(key) ? Number(key, min, max) : fallback;
}

absl::StatusOr<std::string> Metadata::StringOr(absl::string_view key,
                                               absl::string_view fallback) const {
  const v1::MetadataValue* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (value->value_case() != v1::MetadataValue::kStringValue) return Error(key, "is not a string");
  return value->string_value();
}

absl::StatusOr<bool> Metadata::BooleanOr(absl::string_view key, bool fallback) const {
  const v1::MetadataValue* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->value_case() != v1::MetadataValue::kBoolValue) return Error(key, "is not a boolean");
  return value->bool_value();
}

bool Metadata::IsArray(absl::string_view key) const {
  const v1::MetadataValue* value = Find(key);
  return value != nullptr && value->value_case() == v1::MetadataValue::kArrayValue;
}

absl::StatusOr<std::vector<bool>> Metadata::Flags(absl::string_view key, int count) const {
  if (!IsArray(key)) return Error(key, "is not an array");
  const v1::MetadataArray& array = Find(key)->array_value();
  std::vector<bool> flags;
  for (const uint64_t element : array.unsigned_values()) flags.push_back(element != 0);
  for (const int64_t element : array.signed_values()) flags.push_back(element != 0);
  if (flags.size() < static_cast<size_t>(count)) {
    return Error(key, absl::StrCat("has ", flags.size(), " booleans or integers, not ", count));
  }
  flags.resize(count);
  return flags;
}

absl::StatusOr<TransformerShape> ReadTransformerShape(const v1::Manifest& manifest) {
  const Metadata metadata(manifest);
  TransformerShape shape;
  READ_OR_RETURN(shape.layers, metadata.Integer("block_count", 1, kMaxLayers));
  READ_OR_RETURN(shape.prediction_layers,
                 metadata.IntegerOr("nextn_predict_layers", 0, 0, shape.layers - 1));
  shape.layers -= shape.prediction_layers;
  READ_OR_RETURN(shape.embedding, metadata.Integer("embedding_length", 1, kMaxWidth));
  // A model whose layers all have experts may leave it out.
  if (metadata.Has("feed_forward_length") || !metadata.Has("expert_feed_forward_length")) {
    READ_OR_RETURN(shape.feed_forward, metadata.Integer("feed_forward_length", 1, kMaxWidth));
  }
  READ_OR_RETURN(shape.heads, metadata.Integer("attention.head_count", 1, kMaxHeads));
  READ_OR_RETURN(shape.kv_heads,
                 metadata.IntegerOr("attention.head_count_kv", shape.heads, 1, kMaxHeads));
  if (shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model '", manifest.name(), "': ", shape.kv_heads,
                     " key/value heads do not divide ", shape.heads, " heads"));
  }
  int64_t default_head_dim = 0;
  if (!metadata.Has("attention.key_length") || !metadata.Has("attention.value_length")) {
    if (shape.embedding % shape.heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat("model '", manifest.name(), "': ", shape.heads,
                                                     " heads do not divide an embedding of ",
                                                     shape.embedding));
    }
    default_head_dim = shape.embedding / shape.heads;
  }
  READ_OR_RETURN(shape.key_dim,
                 metadata.IntegerOr("attention.key_length", default_head_dim, 1, 4096));
  READ_OR_RETURN(shape.value_dim,
                 metadata.IntegerOr("attention.value_length", default_head_dim, 1, 4096));
  READ_OR_RETURN(shape.context, metadata.Integer("context_length", 1, int64_t{1} << 30));
  READ_OR_RETURN(shape.norm_epsilon, metadata.Number("attention.layer_norm_rms_epsilon", 0.0, 1.0));
  // The embedding table says how large the vocabulary is; metadata may lack it.
  for (const v1::TensorInfo& tensor : manifest.tensors()) {
    if (tensor.name() == "token_embd.weight" && tensor.dimensions_size() == 2) {
      shape.vocabulary = static_cast<int64_t>(tensor.dimensions(1));
    }
  }
  if (shape.vocabulary < 1 || shape.vocabulary > kMaxVocabulary) {
    return absl::InvalidArgumentError(absl::StrCat("model '", manifest.name(),
                                                   "': tensor token_embd.weight is missing or "
                                                   "not a matrix of 1 to ",
                                                   kMaxVocabulary, " rows"));
  }
  return shape;
}

absl::StatusOr<RopeParameters> ReadRopeParameters(const v1::Manifest& manifest,
                                                  const TransformerShape& shape) {
  const Metadata metadata(manifest);
  RopeParameters rope;
  READ_OR_RETURN(rope.rope_dims,
                 metadata.IntegerOr("rope.dimension_count", shape.key_dim, 2, shape.key_dim));
  if (rope.rope_dims % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model '", manifest.name(), "': rope.dimension_count ", rope.rope_dims, " is odd"));
  }
  READ_OR_RETURN(rope.freq_base, metadata.NumberOr("rope.freq_base", 10000.0, 1e-3, 1e12));

  // Files from before the scaling had a type say "rope.scale_linear".
  std::string scaling;
  double factor = 1.0;
  READ_OR_RETURN(factor, metadata.NumberOr("rope.scale_linear", 1.0, 0.0, 1e6));
  READ_OR_RETURN(factor, metadata.NumberOr("rope.scaling.factor", factor, 0.0, 1e6));
  READ_OR_RETURN(scaling, metadata.StringOr("rope.scaling.type", "linear"));
  rope.factor = factor == 0.0 ? 1.0f : static_cast<float>(factor);
  READ_OR_RETURN(rope.attn_factor, metadata.NumberOr("rope.scaling.attn_factor", 1.0, 1e-6, 1e6));
  if (scaling == "none") {
    rope.scaling = RopeScaling::kNone;
    rope.factor = 1.0f;
  } else if (scaling == "linear") {
    rope.scaling = rope.factor == 1.0f ? RopeScaling::kNone : RopeScaling::kLinear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    READ_OR_RETURN(rope.original_context, metadata.IntegerOr("rope.scaling.original_context_length",
                                                             shape.context, 1, 1 << 30));
    READ_OR_RETURN(rope.attn_factor,
                   metadata.NumberOr("rope.scaling.yarn_attn_factor", rope.attn_factor, 1e-6, 1e6));
    READ_OR_RETURN(rope.ext_factor,
                   metadata.NumberOr("rope.scaling.yarn_ext_factor", 1.0, 0.0, 1.0));
    READ_OR_RETURN(rope.beta_fast,
                   metadata.NumberOr("rope.scaling.yarn_beta_fast", 32.0, 1e-3, 1e6));
    READ_OR_RETURN(rope.beta_slow,
                   metadata.NumberOr("rope.scaling.yarn_beta_slow", 1.0, 1e-3, 1e6));
  } else {
    return absl::UnimplementedError(absl::StrCat("model '", manifest.name(), "': RoPE scaling '",
                                                 scaling,
                                                 "' is not supported (none, linear, yarn are)"));
  }
  return rope;
}

}  // namespace gguf_offload
