// offloadctl load, unload, verify: what a weight daemon serves and whether its bytes are intact.
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "computed/cli/weights_client.h"

namespace gguf_offload::cli {
namespace {

absl::Status RunLoad(const Arguments& arguments) {
  if (arguments.operands().empty()) return absl::InvalidArgumentError("name the model");
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  v1::LoadModelRequest request;
  request.set_model(arguments.operands()[0]);
  if (arguments.operands().size() > 1) request.set_path(arguments.operands()[1]);
  if (arguments.Has("residency")) {
    v1::Residency residency;
    const std::string text = arguments.Text("residency");
    if (!v1::Residency_Parse("RESIDENCY_" + absl::AsciiStrToUpper(text), &residency)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--residency=", text, " is none of lazy, warm, lock"));
    }
    request.set_residency(residency);
  }
  grpc::ClientContext context;
  v1::LoadModelResponse response;
  const grpc::Status status = weights->stub().LoadModel(&context, request, &response);
  if (!status.ok()) return RpcError(status, weights->address());
  const v1::ModelStatus& model = response.status();
  if (model.state() == v1::MODEL_STATE_FAILED) {
    return absl::FailedPreconditionError(OneLine(model.error()));
  }
  Print(absl::StrFormat("%s: %d tensors, %s, generation %d\n", model.name(), model.tensor_count(),
                        HumanBytes(model.bytes()), model.generation()));
  return absl::OkStatus();
}

absl::Status RunUnload(const Arguments& arguments) {
  absl::StatusOr<std::string> name = ModelName(arguments);
  if (!name.ok()) return name.status();
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  v1::UnloadModelRequest request;
  request.set_model(*name);
  grpc::ClientContext context;
  v1::UnloadModelResponse response;
  const grpc::Status status = weights->stub().UnloadModel(&context, request, &response);
  if (!status.ok()) return RpcError(status, weights->address());
  Print(absl::StrFormat("%s: unloaded, %d leases still hold it\n", *name, response.leases()));
  return absl::OkStatus();
}

absl::Status RunVerify(const Arguments& arguments) {
  absl::StatusOr<std::string> name = ModelName(arguments);
  if (!name.ok()) return name.status();
  grpc::ClientContext context;
  const CancelOnInterrupt cancel(&context);
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  v1::VerifyModelRequest request;
  request.set_model(*name);
  request.set_tensor(arguments.Text("tensor"));
  const auto reader = weights->stub().VerifyModel(&context, request);
  v1::VerifyModelResponse response;
  v1::VerifyModelResponse last;
  uint64_t tensors = 0;
  {
    ProgressBar bar(*name);
    while (reader->Read(&response)) {
      bar.Update(response.bytes_done(), response.bytes_total());
      if (response.done()) {
        last = response;
        continue;
      }
      ++tensors;
      if (response.changed() || arguments.Has("hashes")) {
        Print(absl::StrFormat("%016x  %s%s\n", response.xxh64(), OneLine(response.tensor()),
                              response.changed() ? "  CHANGED" : ""));
      }
    }
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return RpcError(status, weights->address());
  if (!last.done()) {
    return absl::DataLossError(absl::StrCat(weights->address(), ": the answer has no end"));
  }
  Print(absl::StrFormat("%s: %d tensors, %s, xxh64 %016x, %d changed\n", *name, tensors,
                        HumanBytes(last.bytes_total()), last.model_xxh64(),
                        last.changed_tensors()));
  if (last.changed_tensors() > 0) {
    return absl::DataLossError(absl::StrCat(last.changed_tensors(), " of the tensors of '", *name,
                                            "' changed since they were first verified"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> LoadingCommands() {
  const Flag residency = {"residency", FlagKind::kText, "HOW",
                          "lazy, warm or lock; the daemon's default otherwise."};
  const Flag tensor = {"tensor", FlagKind::kText, "NAME", "Only this tensor."};
  const Flag hashes = {"hashes", FlagKind::kSwitch, "", "Prints every tensor's hash."};
  return {
      {"load",
       "NAME [PATH]",
       2,
       "Has the daemon load a GGUF file of its host, or read it anew.",
       {kWeightsFlag, residency},
       RunLoad},
      {"unload", "NAME", 1, "Stops serving a model.", {kWeightsFlag, kModelFlag}, RunUnload},
      {"verify",
       "NAME",
       1,
       "Hashes a model's tensors and says which have changed.",
       {kWeightsFlag, kModelFlag, tensor, hashes},
       RunVerify},
  };
}

}  // namespace gguf_offload::cli
