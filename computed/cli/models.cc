// offloadctl models, model, tensors: what the weight daemon serves.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "computed/cli/weights_client.h"

namespace gguf_offload::cli {
namespace {

// "MODEL_STATE_READY" -> "ready"
std::string Lower(absl::string_view name, absl::string_view prefix) {
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

std::string StateName(v1::ModelState state) {
  return Lower(v1::ModelState_Name(state), "MODEL_STATE_");
}

std::string ResidencyText(const v1::ModelStatus& model) {
  std::string text = Lower(v1::Residency_Name(model.residency()), "RESIDENCY_");
  if (model.residency() > v1::RESIDENCY_LAZY && model.populated_bytes() < model.bytes()) {
    absl::StrAppend(&text, " ", HumanBytes(model.populated_bytes()));
  }
  return text;
}

std::string ArrayText(const v1::MetadataArray& array) {
  constexpr int kShown = 8;
  if (array.elided()) return absl::StrCat("array of ", array.length());
  std::vector<std::string> parts;
  for (uint64_t value : array.unsigned_values()) parts.push_back(absl::StrCat(value));
  for (int64_t value : array.signed_values()) parts.push_back(absl::StrCat(value));
  for (float value : array.float_values()) parts.push_back(absl::StrCat(value));
  for (double value : array.double_values()) parts.push_back(absl::StrCat(value));
  for (const std::string& value : array.string_values()) parts.emplace_back(value);
  for (const std::string& value : array.bytes_values()) parts.push_back(absl::CHexEscape(value));
  if (parts.size() > kShown) {
    parts.resize(kShown);
    parts.push_back("...");
  }
  return absl::StrCat("[", absl::StrJoin(parts, ", "), "]");
}

std::string ValueText(const v1::MetadataValue& value) {
  switch (value.value_case()) {
    case v1::MetadataValue::kUnsignedValue:
      return absl::StrCat(value.unsigned_value());
    case v1::MetadataValue::kSignedValue:
      return absl::StrCat(value.signed_value());
    case v1::MetadataValue::kFloatValue:
      return absl::StrCat(value.float_value());
    case v1::MetadataValue::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case v1::MetadataValue::kStringValue:
      return value.string_value();
    case v1::MetadataValue::kBytesValue:
      return absl::CHexEscape(value.bytes_value());
    case v1::MetadataValue::kArrayValue:
      return ArrayText(value.array_value());
    case v1::MetadataValue::VALUE_NOT_SET:
      break;
  }
  return "";
}

absl::Status RunModels(const Arguments& arguments) {
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  const grpc::Status status = weights->stub().ListModels(&context, {}, &response);
  if (!status.ok()) return RpcError(status, weights->address());
  if (arguments.Has("json")) {
    Print(ToJson(response));
    return absl::OkStatus();
  }
  Table table({"NAME", "STATE", "ARCHITECTURE", ">TENSORS", ">SIZE", ">FILES", "RESIDENCY",
               ">LEASES", "PATH OR ERROR"});
  for (const v1::ModelStatus& model : response.models()) {
    table.Add({model.name(), StateName(model.state()), model.architecture(),
               absl::StrCat(model.tensor_count()), HumanBytes(model.bytes()),
               absl::StrCat(model.shard_count()), ResidencyText(model),
               absl::StrCat(model.leases()), model.error().empty() ? model.path() : model.error()});
  }
  Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunModel(const Arguments& arguments) {
  absl::StatusOr<std::string> name = ModelName(arguments);
  if (!name.ok()) return name.status();
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  absl::StatusOr<v1::GetModelResponse> response = weights->GetModel(*name, arguments.Has("arrays"));
  if (!response.ok()) return response.status();
  if (arguments.Has("json")) {
    Print(ToJson(*response));
    return absl::OkStatus();
  }
  const v1::ModelStatus& model = response->status();
  Table table({"name", model.name()});
  table.Add({"state", StateName(model.state())});
  if (!model.error().empty()) table.Add({"error", model.error()});
  table.Add({"path", model.path()});
  table.Add({"generation", absl::StrCat(model.generation())});
  table.Add({"architecture", model.architecture()});
  table.Add({"tensors", absl::StrCat(model.tensor_count())});
  table.Add({"size", HumanBytes(model.bytes())});
  table.Add({"residency", ResidencyText(model)});
  table.Add({"leases", absl::StrCat(model.leases())});
  for (const v1::ShardInfo& shard : response->manifest().shards()) {
    table.Add({"file", absl::StrCat(shard.file_name(), ", ", HumanBytes(shard.bytes()))});
  }
  const auto& metadata = response->manifest().metadata();
  const std::map<std::string, v1::MetadataValue> sorted(metadata.begin(), metadata.end());
  for (const auto& [key, value] : sorted) table.Add({key, ValueText(value)});
  Print(table.ToString());
  return absl::OkStatus();
}

absl::Status RunTensors(const Arguments& arguments) {
  absl::StatusOr<std::string> name = ModelName(arguments);
  if (!name.ok()) return name.status();
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  absl::StatusOr<std::vector<v1::TensorInfo>> tensors = weights->ListTensors(*name);
  if (!tensors.ok()) return tensors.status();
  if (arguments.Has("json")) {
    v1::ListTensorsResponse all;
    all.mutable_tensors()->Add(tensors->begin(), tensors->end());
    Print(ToJson(all));
    return absl::OkStatus();
  }
  Table table({"NAME", "TYPE", "SHAPE", ">SIZE", ">FILE", ">OFFSET"});
  for (const v1::TensorInfo& tensor : *tensors) {
    table.Add({tensor.name(), tensor.type_name(), absl::StrJoin(tensor.dimensions(), " x "),
               HumanBytes(tensor.bytes()), absl::StrCat(tensor.shard()),
               absl::StrCat(tensor.offset())});
  }
  Print(table.ToString());
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ModelCommands() {
  const Flag arrays = {"arrays", FlagKind::kSwitch, "", "Fetches long arrays (vocabularies) too."};
  return {
      {"models",
       "",
       0,
       "Lists the models that a weight daemon serves.",
       {kWeightsFlag, kJsonFlag},
       RunModels},
      {"model",
       "NAME",
       1,
       "Shows a model's state and metadata.",
       {kWeightsFlag, kModelFlag, arrays, kJsonFlag},
       RunModel},
      {"tensors",
       "NAME",
       1,
       "Lists a model's tensors, fastest dimension first.",
       {kWeightsFlag, kModelFlag, kJsonFlag},
       RunTensors},
  };
}

}  // namespace gguf_offload::cli
