#include "computed/model/model_tensors.h"

#include <map>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "computed/model/unused_tensors.h"

namespace gguf_offload {
namespace {

std::string ShapeString(const std::vector<int64_t>& dimensions) {
  return absl::StrCat("(", absl::StrJoin(dimensions, ", "), ")");
}

// Dimensions without trailing ones, which files may or may not write.
std::vector<int64_t> Significant(std::vector<int64_t> dimensions) {
  while (dimensions.size() > 1 && dimensions.back() == 1) dimensions.pop_back();
  return dimensions;
}

// Finds what specs ask for, and remembers what it has found.
class Resolver {
 public:
  explicit Resolver(const v1::Manifest& manifest) : manifest_(manifest) {
    for (const v1::TensorInfo& tensor : manifest.tensors()) index_[tensor.name()] = &tensor;
  }

  // The tensors of a group; layer -1: outside the layers.
  absl::StatusOr<std::vector<ModelTensor>> Group(const std::vector<TensorSpec>& specs, int layer);
  // What nobody asked for: an error, or lines for the log.
  absl::StatusOr<std::vector<std::string>> Unused(const TransformerShape& shape) const;

 private:
  absl::Status Add(const TensorSpec& spec, int layer, std::vector<ModelTensor>& group);
  absl::Status AddCompanions(const TensorSpec& spec, TensorId from, int layer,
                             const MergedRows* part, std::vector<ModelTensor>& group);
  // The tensor of this name and shape, or nothing if the file has none of the name.
  absl::StatusOr<std::optional<ModelTensor>> Find(TensorId id, const std::string& name,
                                                  const std::vector<int64_t>& dimensions);
  absl::Status Error(absl::string_view name, absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("model '", manifest_.name(), "': tensor ", name, " ", what));
  }
  absl::Status Cut(ModelTensor& tensor, const MergedRows& part, int64_t rows) const;

  const v1::Manifest& manifest_;
  std::unordered_map<std::string_view, const v1::TensorInfo*> index_;
  std::unordered_set<std::string_view> used_;
};

absl::StatusOr<std::optional<ModelTensor>> Resolver::Find(TensorId id, const std::string& name,
                                                          const std::vector<int64_t>& dimensions) {
  const auto it = index_.find(name);
  if (it == index_.end()) return std::nullopt;
  const v1::TensorInfo& info = *it->second;
  used_.insert(it->first);
  const std::vector<int64_t> found(info.dimensions().begin(), info.dimensions().end());
  if (Significant(found) != Significant(dimensions)) {
    return Error(name,
                 absl::StrCat("has shape ", ShapeString(found), ", not ", ShapeString(dimensions)));
  }
  const quant::Format* format = quant::FindFormat(info.type());
  if (format == nullptr || !format->dequantizable) {
    return Error(name,
                 absl::StrCat("has type ", info.type_name(), ", which cannot be computed with"));
  }
  ModelTensor tensor{.id = id, .name = name, .type = format->type};
  tensor.columns = dimensions[0];
  if (dimensions.size() > 1) tensor.rows = dimensions[1];
  if (dimensions.size() > 2) tensor.matrices = dimensions[2];
  tensor.shard = info.shard();
  tensor.offset = info.offset();
  tensor.bytes = info.bytes();
  // The daemon is a peer like any other: its figures are checked before anything is read by them.
  if (tensor.columns % format->block_elements != 0) {
    return Error(name, absl::StrCat("has rows of ", tensor.columns, " elements, not a multiple of ",
                                    format->block_elements));
  }
  const uint64_t expected =
      quant::RowBytes(*format, tensor.columns) * tensor.rows * tensor.matrices;
  if (tensor.bytes != expected) {
    return Error(name, absl::StrCat("has ", tensor.bytes, " bytes, not ", expected));
  }
  if (tensor.shard >= static_cast<uint32_t>(manifest_.shards_size())) {
    return Error(name, absl::StrCat("is in shard ", tensor.shard, ", which does not exist"));
  }
  const uint64_t file_bytes = manifest_.shards(tensor.shard).bytes();
  if (tensor.offset > file_bytes || tensor.bytes > file_bytes - tensor.offset) {
    return Error(name, absl::StrCat("at offset ", tensor.offset, " lies outside its file"));
  }
  return tensor;
}

// Leaves `rows` rows of each matrix, those of `part`.
absl::Status Resolver::Cut(ModelTensor& tensor, const MergedRows& part, int64_t rows) const {
  // Kernels read weights at addresses that are multiples of this.
  constexpr uint64_t kAlignment = 8;
  const uint64_t row_bytes = quant::RowBytes(quant::FormatOf(tensor.type), tensor.columns);
  const uint64_t whole = tensor.rows * row_bytes;
  if (part.first_row * row_bytes % kAlignment != 0 || whole % kAlignment != 0) {
    return absl::UnimplementedError(
        absl::StrCat("model '", manifest_.name(), "': tensor ", tensor.name,
                     " cannot be used in parts: one begins ", part.first_row * row_bytes,
                     " bytes from its start, not at a multiple of ", kAlignment));
  }
  if (tensor.matrices > 1 && rows != tensor.rows) tensor.matrix_stride = whole;
  tensor.offset += part.first_row * row_bytes;
  tensor.rows = rows;
  tensor.bytes = tensor.matrices * rows * row_bytes;
  return absl::OkStatus();
}

// The bias and the scale of the weight that `spec` asks for, which is the tensor `from`, or the
// rows `part` of it.
absl::Status Resolver::AddCompanions(const TensorSpec& spec, TensorId from, int layer,
                                     const MergedRows* part, std::vector<ModelTensor>& group) {
  const int64_t rows = spec.dimensions.size() > 1 ? spec.dimensions[1] : 1;
  const int64_t matrices = spec.dimensions.size() > 2 ? spec.dimensions[2] : 1;
  absl::StatusOr<std::optional<ModelTensor>> scale =
      Find(spec.id, TensorName(from, layer, "scale"), {matrices});
  if (!scale.ok()) return scale.status();
  if (scale->has_value()) {
    (*scale)->role = WeightRole::kScale;
    group.push_back(**std::move(scale));
  }
  // That of merged experts would lie in pieces; it counts as unused, which is an error.
  if (part != nullptr && matrices > 1) return absl::OkStatus();
  std::vector<int64_t> shape = {part == nullptr ? rows : part->rows};
  if (matrices > 1) shape.push_back(matrices);
  absl::StatusOr<std::optional<ModelTensor>> bias =
      Find(spec.id, TensorName(from, layer, "bias"), shape);
  if (!bias.ok()) return bias.status();
  if (!bias->has_value()) return absl::OkStatus();
  ModelTensor& tensor = **bias;
  const quant::Format& format = quant::FormatOf(tensor.type);
  // Vectors are converted when they are loaded.
  if (!tensor.is_vector() && tensor.type != quant::TensorType::kF32) {
    return Error(tensor.name, absl::StrCat("has type ", std::string(format.name), ", not F32"));
  }
  if (part != nullptr) {
    if (format.block_elements != 1) {
      return Error(tensor.name,
                   absl::StrCat("has type ", std::string(format.name), ", which cannot be cut"));
    }
    tensor.offset += part->first_row * format.block_bytes;
    tensor.columns = rows;
    tensor.bytes = rows * format.block_bytes;
  }
  tensor.role = WeightRole::kBias;
  group.push_back(std::move(tensor));
  return absl::OkStatus();
}

absl::Status Resolver::Add(const TensorSpec& spec, int layer, std::vector<ModelTensor>& group) {
  const std::string name = TensorName(spec.id, layer);
  absl::StatusOr<std::optional<ModelTensor>> own = Find(spec.id, name, spec.dimensions);
  if (!own.ok()) return own.status();
  if (own->has_value()) {
    group.push_back(**std::move(own));
    return IsLinear(spec.id) ? AddCompanions(spec, spec.id, layer, nullptr, group)
                             : absl::OkStatus();
  }
  for (const MergedRows& part : spec.merged) {
    std::vector<int64_t> whole = spec.dimensions;
    whole[1] = part.rows;
    absl::StatusOr<std::optional<ModelTensor>> tensor =
        Find(spec.id, TensorName(part.id, layer), whole);
    if (!tensor.ok()) return tensor.status();
    if (!tensor->has_value()) continue;
    if (absl::Status status = Cut(**tensor, part, spec.dimensions[1]); !status.ok()) return status;
    group.push_back(**std::move(tensor));
    return AddCompanions(spec, part.id, layer, &part, group);
  }
  if (!spec.optional) {
    return absl::NotFoundError(
        absl::StrCat("model '", manifest_.name(), "': tensor ", name, " is missing"));
  }
  // The head that is the embedding may still have a bias of its own.
  return IsLinear(spec.id) ? AddCompanions(spec, spec.id, layer, nullptr, group) : absl::OkStatus();
}

absl::StatusOr<std::vector<ModelTensor>> Resolver::Group(const std::vector<TensorSpec>& specs,
                                                         int layer) {
  std::vector<ModelTensor> group;
  for (const TensorSpec& spec : specs) {
    if (absl::Status status = Add(spec, layer, group); !status.ok()) return status;
  }
  return group;
}

absl::StatusOr<std::vector<std::string>> Resolver::Unused(const TransformerShape& shape) const {
  std::map<absl::string_view, std::vector<std::string>> by_reason;
  for (const v1::TensorInfo& tensor : manifest_.tensors()) {
    if (used_.count(tensor.name()) > 0) continue;
    const absl::string_view reason =
        ReasonForLeavingOut(tensor.name(), shape.layers, shape.prediction_layers);
    if (reason.empty()) {
      return absl::UnimplementedError(absl::StrCat(
          "model '", manifest_.name(), "': tensor ", tensor.name(), " is not used by architecture ",
          manifest_.architecture(), " as it is known here, so the answers would be wrong"));
    }
    by_reason[reason].push_back(tensor.name());
  }
  std::vector<std::string> lines;
  for (const auto& [reason, names] : by_reason) {
    lines.push_back(absl::StrCat(names.size(), names.size() == 1 ? " tensor" : " tensors", " (",
                                 names.front(), names.size() > 1 ? " ..." : "", "): ", reason));
  }
  return lines;
}

}  // namespace

absl::StatusOr<ModelTensors> ResolveTensors(const Architecture& architecture,
                                            const v1::Manifest& manifest) {
  Resolver resolver(manifest);
  ModelTensors tensors;
  const int layers = architecture.shape().layers;
  for (int group = 0; group < layers + 2; ++group) {
    const bool input = group == 0, head = group == layers + 1;
    absl::StatusOr<std::vector<ModelTensor>> resolved =
        resolver.Group(input  ? architecture.InputTensors()
                       : head ? architecture.HeadTensors()
                              : architecture.LayerTensors(group - 1),
                       input || head ? -1 : group - 1);
    if (!resolved.ok()) return resolved.status();
    tensors.groups.push_back(*std::move(resolved));
  }
  absl::StatusOr<std::vector<std::string>> unused = resolver.Unused(architecture.shape());
  if (!unused.ok()) return unused.status();
  tensors.unused = *std::move(unused);
  tensors.tied_head = true;
  for (const ModelTensor& tensor : tensors.groups.back()) {
    if (tensor.id == kOutput && tensor.role == WeightRole::kWeight) tensors.tied_head = false;
  }
  return tensors;
}

void Bind(const ModelTensor& tensor, quant::TensorType type, const uint8_t* data,
          uint64_t matrix_stride, LayerWeights& weights) {
  Weight& weight = weights[tensor.id];
  switch (tensor.role) {
    case WeightRole::kScale:
      weight.scale = reinterpret_cast<const float*>(data);
      return;
    case WeightRole::kBias:
      weight.bias = reinterpret_cast<const float*>(data);
      return;
    case WeightRole::kWeight:
      weight.type = type;
      weight.data = data;
      weight.columns = tensor.columns;
      weight.rows = tensor.rows;
      weight.matrices = tensor.matrices;
      weight.matrix_stride = static_cast<int64_t>(matrix_stride);
      return;
  }
}

void ScaleFeedForwardBiases(const std::vector<ModelTensor>& group, const LayerWeights& weights) {
  for (const TensorId id :
       {kFfnGate, kFfnUp, kFfnDown, kSharedExpertGate, kSharedExpertUp, kSharedExpertDown}) {
    const Weight& weight = weights[id];
    if (weight.scale == nullptr || weight.bias == nullptr) continue;
    bool nvfp4 = false;
    int64_t rows = 0;
    for (const ModelTensor& tensor : group) {
      if (tensor.id != id) continue;
      if (tensor.role == WeightRole::kBias) rows = tensor.columns;
      if (tensor.role == WeightRole::kWeight) nvfp4 = tensor.type == quant::TensorType::kNVFP4;
    }
    if (nvfp4) continue;
    float* const bias = const_cast<float*>(weight.bias);
    for (int64_t i = 0; i < rows; ++i) bias[i] *= *weight.scale;
  }
}

}  // namespace gguf_offload
