// offloadctl tensor: one tensor's values into a file.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "computed/cli/weights_client.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/format.h"

namespace gguf_offload::cli {
namespace {

// Turns consecutive pieces of a tensor's bytes into float32 values, whatever the pieces' borders.
// Holds at most one block and one piece's values. Not thread-safe.
class PiecewiseDequantizer {
 public:
  // `format` and `out` must outlive this object.
  PiecewiseDequantizer(const quant::Format& format, OutputFile& out) : format_(format), out_(out) {}

  absl::Status Add(std::string_view bytes) {
    if (!partial_.empty()) {
      const size_t missing = std::min(format_.block_bytes - partial_.size(), bytes.size());
      partial_.append(bytes.substr(0, missing));
      bytes.remove_prefix(missing);
      if (partial_.size() < format_.block_bytes) return absl::OkStatus();
      if (absl::Status status = Write(partial_); !status.ok()) return status;
      partial_.clear();
    }
    const size_t whole = bytes.size() / format_.block_bytes * format_.block_bytes;
    partial_.assign(bytes.substr(whole));
    return Write(bytes.substr(0, whole));
  }

  // Whether the bytes so far were a whole number of blocks.
  bool complete() const { return partial_.empty(); }

 private:
  // `blocks` is a whole number of blocks.
  absl::Status Write(std::string_view blocks) {
    const size_t elements = blocks.size() / format_.block_bytes * format_.block_elements;
    if (elements == 0) return absl::OkStatus();
    if (values_.size() < elements) values_.resize(elements);
    quant::Dequantize(format_.type, blocks.data(), elements, values_.data());
    return out_.Write(values_.data(), elements * sizeof(float));
  }

  const quant::Format& format_;
  OutputFile& out_;
  std::string partial_;        // the beginning of a block whose end has not arrived
  std::vector<float> values_;  // (elements of the largest piece)
};

absl::StatusOr<v1::TensorInfo> FindTensor(const WeightsClient& weights, const std::string& model,
                                          const std::string& name) {
  absl::StatusOr<std::vector<v1::TensorInfo>> tensors = weights.ListTensors(model);
  if (!tensors.ok()) return tensors.status();
  for (v1::TensorInfo& tensor : *tensors) {
    if (tensor.name() == name) return std::move(tensor);
  }
  return absl::NotFoundError(
      absl::StrCat("no tensor '", name, "' in '", model, "' at ", weights.address()));
}

// The tensor's format if its values can be written as float32.
absl::StatusOr<const quant::Format*> DequantizableFormat(const v1::TensorInfo& tensor) {
  const quant::Format* format = quant::FindFormat(tensor.type());
  if (format == nullptr || !format->dequantizable) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name(), "' is ",
                                                   OneLine(tensor.type_name()),
                                                   ", which only --raw can write"));
  }
  return format;
}

absl::Status RunTensor(const Arguments& arguments) {
  absl::StatusOr<std::string> model = ModelName(arguments);
  if (!model.ok()) return model.status();
  grpc::ClientContext context;
  const CancelOnInterrupt cancel(&context);
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  absl::StatusOr<v1::TensorInfo> tensor = FindTensor(*weights, *model, arguments.Text("name"));
  if (!tensor.ok()) return tensor.status();
  const bool raw = arguments.Has("raw");
  const quant::Format* format = quant::FindFormat(0);
  if (!raw) {
    absl::StatusOr<const quant::Format*> found = DequantizableFormat(*tensor);
    if (!found.ok()) return found.status();
    format = *found;
  }
  absl::StatusOr<OutputFile> out = OutputFile::Create(arguments.Text("out"));
  if (!out.ok()) return out.status();

  v1::ReadBlocksRequest request;
  request.set_model(*model);
  request.set_tensor(tensor->name());
  const auto reader = weights->stub().ReadBlocks(&context, request);
  PiecewiseDequantizer dequantizer(*format, *out);
  ProgressBar bar(tensor->name());
  v1::ReadBlocksResponse piece;
  uint64_t done = 0;
  while (reader->Read(&piece)) {
    if (piece.offset() != done) {
      context.TryCancel();
      return absl::DataLossError(absl::StrCat(weights->address(), ": tensor '", tensor->name(),
                                              "': bytes from ", piece.offset(), " came after ",
                                              done));
    }
    const std::string& data = piece.data();
    if (absl::Status status = raw ? out->Write(data.data(), data.size()) : dequantizer.Add(data);
        !status.ok()) {
      context.TryCancel();
      return status;
    }
    done += data.size();
    bar.Update(done, tensor->bytes());
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return RpcError(status, weights->address());
  if (done != tensor->bytes() || !dequantizer.complete()) {
    return absl::DataLossError(absl::StrCat(weights->address(), ": tensor '", tensor->name(),
                                            "': ", done, " bytes came, not ", tensor->bytes()));
  }
  return out->Close();
}

}  // namespace

std::vector<Command> TensorCommands() {
  const Flag name = {"name", FlagKind::kText, "TENSOR", "The tensor's name.", true};
  const Flag out = {"out", FlagKind::kText, "FILE", "Where to write it.", true};
  const Flag raw = {"raw", FlagKind::kSwitch, "", "Writes the bytes as they are in the file."};
  return {{"tensor",
           "",
           1,
           "Writes a tensor, dequantized to little-endian float32, into a file.",
           {kWeightsFlag, kModelFlag, name, out, raw},
           RunTensor}};
}

}  // namespace gguf_offload::cli
