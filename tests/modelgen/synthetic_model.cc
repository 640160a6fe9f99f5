#include "tests/modelgen/synthetic_model.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "tests/modelgen/block_generator.h"
#include "tests/modelgen/quantization_mix.h"
#include "tests/modelgen/vocabulary.h"

namespace gguf_offload {
namespace {

constexpr uint32_t kQuantizationVersion = 2;

void AddGeneralMetadata(const ModelPlan& plan, const QuantizationMix& mix, GgufWriter* writer) {
  writer->AddMetadata("general.architecture", plan.architecture);
  writer->AddMetadata("general.type", std::string("model"));
  writer->AddMetadata("general.name", plan.name + " synthetic " + mix.name());
  writer->AddMetadata("general.quantization_version", kQuantizationVersion);
  writer->AddMetadata("general.file_type", mix.file_type());
  for (const auto& [key, value] : plan.hyperparameters) {
    std::visit([&key = key, writer](const auto& number) { writer->AddMetadata(key, number); },
               value);
  }
}

bool IsExpert(TensorRole role) {
  return role == TensorRole::kExpert || role == TensorRole::kExpertDown;
}

}  // namespace

absl::StatusOr<SyntheticModel> SyntheticModel::Plan(const SyntheticModelOptions& options) {
  absl::StatusOr<ModelPlan> plan = MakeModelPlan(options.preset, options.overrides);
  if (!plan.ok()) return plan.status();
  absl::StatusOr<QuantizationMix> mix = QuantizationMix::Parse(options.quantization);
  if (!mix.ok()) return mix.status();
  absl::StatusOr<Vocabulary> vocabulary = MakeVocabulary(plan->tokenizer, plan->shape.vocabulary);
  if (!vocabulary.ok()) return vocabulary.status();

  GgufWriter writer({.shard_bytes = options.shard_bytes, .metadata_shard = options.metadata_shard});
  AddGeneralMetadata(*plan, *mix, &writer);
  AddVocabulary(*vocabulary, &writer);
  for (const TensorPlan& tensor : plan->tensors) {
    absl::Status status = writer.AddTensor(tensor.name, tensor.dims, mix->TypeOf(tensor, *plan));
    if (!status.ok()) return status;
  }
  absl::StatusOr<GgufLayout> layout = writer.Layout();
  if (!layout.ok()) return layout.status();
  return SyntheticModel(*std::move(plan), *std::move(layout), options.seed);
}

absl::StatusOr<std::vector<std::string>> SyntheticModel::Write(const std::string& path,
                                                               int threads) const {
  std::vector<BlockGenerator> generators;
  generators.reserve(plan_.tensors.size());
  for (size_t i = 0; i < plan_.tensors.size(); ++i) {
    const TensorPlan& tensor = plan_.tensors[i];
    generators.emplace_back(layout_.tensors[i].type, TensorSeed(seed_, tensor.name), tensor.mean,
                            tensor.deviation);
  }
  return GgufWriter::Write(
      layout_, path, threads,
      [&generators](size_t tensor, uint64_t begin, uint64_t end, uint8_t* bytes) {
        generators[tensor].Generate(begin, end - begin, bytes);
      });
}

ModelBytes SyntheticModel::Bytes() const {
  ModelBytes bytes;
  bytes.file = layout_.file_bytes();
  uint64_t bank = 0;
  int bank_layer = -1;
  for (size_t i = 0; i < plan_.tensors.size(); ++i) {
    const TensorPlan& tensor = plan_.tensors[i];
    const uint64_t size = layout_.tensors[i].bytes;
    bytes.tensors += size;
    auto& [count, total] = bytes.types[std::string(quant::FormatOf(layout_.tensors[i].type).name)];
    ++count;
    total += size;
    if (tensor.layer >= 0) {
      bytes.layers += size;
    } else if (tensor.role != TensorRole::kEmbedding || plan_.shape.tied) {
      bytes.head += size;
    }
    if (!IsExpert(tensor.role)) continue;
    bytes.experts += size;
    bytes.experts_a_token += size / plan_.shape.experts * plan_.shape.experts_used;
    bank = tensor.layer == bank_layer ? bank + size : size;
    bank_layer = tensor.layer;
    bytes.largest_expert_bank = std::max(bytes.largest_expert_bank, bank);
  }
  return bytes;
}

}  // namespace gguf_offload
