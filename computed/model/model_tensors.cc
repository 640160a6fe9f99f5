#include "computed/model/model_tensors.h"

#include <string_view>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gguf_offload {
namespace {

using TensorIndex = std::unordered_map<std::string_view, const v1::TensorInfo*>;

std::string ShapeString(const std::vector<int64_t>& dimensions) {
  return absl::StrCat("(", absl::StrJoin(dimensions, ", "), ")");
}

// The manifest's dimensions without trailing ones, which files may or may not write.
std::vector<int64_t> Significant(std::vector<int64_t> dimensions) {
  while (dimensions.size() > 1 && dimensions.back() == 1) dimensions.pop_back();
  return dimensions;
}

absl::StatusOr<ModelTensor> Resolve(const TensorSpec& spec, const std::string& name,
                                    const v1::TensorInfo& info, const v1::Manifest& manifest) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("model '", manifest.name(), "': tensor ", name, " ", what));
  };
  const std::vector<int64_t> found(info.dimensions().begin(), info.dimensions().end());
  if (Significant(found) != Significant(spec.dimensions)) {
    return error(
        absl::StrCat("has shape ", ShapeString(found), ", not ", ShapeString(spec.dimensions)));
  }
  const quant::Format* format = quant::FindFormat(info.type());
  if (format == nullptr || !format->dequantizable) {
    return error(absl::StrCat("has type ", info.type_name(), ", which cannot be computed with"));
  }
  if (spec.float32 && format->type != quant::TensorType::kF32) {
    return error(absl::StrCat("has type ", info.type_name(), ", not F32"));
  }
  ModelTensor tensor{.id = spec.id, .name = name, .type = format->type};
  tensor.columns = spec.dimensions[0];
  if (spec.dimensions.size() > 1) tensor.rows = spec.dimensions[1];
  if (spec.dimensions.size() > 2) tensor.matrices = spec.dimensions[2];
  tensor.shard = info.shard();
  tensor.offset = info.offset();
  tensor.bytes = info.bytes();
  // The daemon is a peer like any other: its figures are checked before anything is read by them.
  if (tensor.columns % format->block_elements != 0) {
    return error(absl::StrCat("has rows of ", tensor.columns, " elements, not a multiple of ",
                              format->block_elements));
  }
  const uint64_t expected =
      quant::RowBytes(*format, tensor.columns) * tensor.rows * tensor.matrices;
  if (tensor.bytes != expected) {
    return error(absl::StrCat("has ", tensor.bytes, " bytes, not ", expected));
  }
  if (tensor.shard >= static_cast<uint32_t>(manifest.shards_size())) {
    return error(absl::StrCat("is in shard ", tensor.shard, ", which does not exist"));
  }
  const uint64_t file_bytes = manifest.shards(tensor.shard).bytes();
  if (tensor.offset > file_bytes || tensor.bytes > file_bytes - tensor.offset) {
    return error(absl::StrCat("at offset ", tensor.offset, " lies outside its file"));
  }
  return tensor;
}

absl::StatusOr<std::vector<ModelTensor>> ResolveGroup(const std::vector<TensorSpec>& specs,
                                                      int layer, const TensorIndex& index,
                                                      const v1::Manifest& manifest) {
  std::vector<ModelTensor> group;
  for (const TensorSpec& spec : specs) {
    const std::string name = TensorName(spec.id, layer);
    const auto it = index.find(name);
    if (it == index.end()) {
      if (spec.optional) continue;
      return absl::NotFoundError(
          absl::StrCat("model '", manifest.name(), "': tensor ", name, " is missing"));
    }
    absl::StatusOr<ModelTensor> tensor = Resolve(spec, name, *it->second, manifest);
    if (!tensor.ok()) return tensor.status();
    group.push_back(*std::move(tensor));
  }
  return group;
}

}  // namespace

absl::StatusOr<ModelTensors> ResolveTensors(const Architecture& architecture,
                                            const v1::Manifest& manifest) {
  TensorIndex index;
  for (const v1::TensorInfo& tensor : manifest.tensors()) index[tensor.name()] = &tensor;

  ModelTensors tensors;
  const int layers = architecture.shape().layers;
  for (int group = 0; group < layers + 2; ++group) {
    const bool input = group == 0, head = group == layers + 1;
    absl::StatusOr<std::vector<ModelTensor>> resolved =
        ResolveGroup(input  ? architecture.InputTensors()
                     : head ? architecture.HeadTensors()
                            : architecture.LayerTensors(group - 1),
                     input || head ? -1 : group - 1, index, manifest);
    if (!resolved.ok()) return resolved.status();
    tensors.groups.push_back(*std::move(resolved));
  }
  tensors.tied_head = true;
  for (const ModelTensor& tensor : tensors.groups.back()) {
    if (tensor.id == kOutput) tensors.tied_head = false;
  }
  return tensors;
}

}  // namespace gguf_offload
