// offloadctl tokenize, detokenize: text to token ids and back, by a worker or, from the vocabulary
// that a weight daemon serves, in this process.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "computed/cli/weights_client.h"
#include "computed/tokenizer/tokenizer.h"
#include "gguf_offload/v1/inference.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

using Ids = std::vector<int32_t>;

absl::StatusOr<std::unique_ptr<Tokenizer>> FetchTokenizer(const Arguments& arguments) {
  if (!arguments.Has("model")) return absl::InvalidArgumentError("--model=NAME is needed");
  absl::StatusOr<WeightsClient> weights = WeightsClient::Connect(arguments.Text("weights"));
  if (!weights.ok()) return weights.status();
  absl::StatusOr<v1::GetModelResponse> model =
      weights->GetModel(arguments.Text("model"), /*arrays=*/true);
  if (!model.ok()) return model.status();
  return Tokenizer::Create(model->manifest());
}

absl::StatusOr<Ids> TokenizeByWorker(const Arguments& arguments, const std::string& text) {
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_special(arguments.Has("add-special"));
  request.set_add_end(arguments.Has("add-end"));
  request.set_plain_text(arguments.Has("plain-text"));
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  const grpc::Status status =
      v1::InferenceService::NewStub(*channel)->Tokenize(&context, request, &response);
  if (!status.ok()) return RpcError(status, address);
  return Ids(response.tokens().begin(), response.tokens().end());
}

absl::StatusOr<std::string> DetokenizeByWorker(const Arguments& arguments, const Ids& ids) {
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  v1::DetokenizeRequest request;
  request.mutable_tokens()->Add(ids.begin(), ids.end());
  request.set_render_special(arguments.Has("render-special"));
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  const grpc::Status status =
      v1::InferenceService::NewStub(*channel)->Detokenize(&context, request, &response);
  if (!status.ok()) return RpcError(status, address);
  return response.text();
}

absl::Status RunTokenize(const Arguments& arguments) {
  if (absl::Status status = EitherAddress(arguments).status(); !status.ok()) return status;
  if (arguments.Has("text") == arguments.Has("text-file")) {
    return absl::InvalidArgumentError("give one of --text-file=FILE and --text=TEXT");
  }
  absl::StatusOr<std::string> text = arguments.Text("text");
  if (arguments.Has("text-file")) {
    // A worker is sent the text in a message; the tokenizer itself takes any bytes.
    text = (arguments.Has("worker") ? ReadTextFile : ReadFile)(arguments.Text("text-file"));
  }
  if (!text.ok()) return text.status();
  absl::StatusOr<Ids> ids;
  if (arguments.Has("worker")) {
    ids = TokenizeByWorker(arguments, *text);
  } else {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FetchTokenizer(arguments);
    if (!tokenizer.ok()) return tokenizer.status();
    const EncodeOptions options = {.add_bos = arguments.Has("add-special"),
                                   .add_eos = arguments.Has("add-end"),
                                   .parse_special = !arguments.Has("plain-text")};
    ids = (*tokenizer)->Encode(*text, options);
  }
  if (!ids.ok()) return ids.status();
  Print(absl::StrCat("[", absl::StrJoin(*ids, ", "), "]\n"));
  return absl::OkStatus();
}

absl::Status RunDetokenize(const Arguments& arguments) {
  if (absl::Status status = EitherAddress(arguments).status(); !status.ok()) return status;
  absl::StatusOr<Ids> ids = ParseTokenIds(arguments.Text("tokens"));
  if (!ids.ok()) return ids.status();
  absl::StatusOr<std::string> text;
  if (arguments.Has("worker")) {
    text = DetokenizeByWorker(arguments, *ids);
  } else {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FetchTokenizer(arguments);
    if (!tokenizer.ok()) return tokenizer.status();
    for (int32_t id : *ids) {
      if (id >= (*tokenizer)->vocab_size()) {
        return absl::InvalidArgumentError(absl::StrCat("token ", id, " is not below ",
                                                       (*tokenizer)->vocab_size(),
                                                       ", the size of the vocabulary"));
      }
    }
    text = (*tokenizer)->Decode(*ids, arguments.Has("render-special"));
  }
  if (!text.ok()) return text.status();
  Print(absl::StrCat(*text, "\n"));
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> TokenCommands() {
  const Flag model = {"model", FlagKind::kText, "NAME", "The model, with --weights."};
  const Flag text_file = {"text-file", FlagKind::kText, "FILE",
                          "The text, byte for byte; - is standard input."};
  const Flag text = {"text", FlagKind::kText, "TEXT", "The text."};
  const Flag add_special = {"add-special", FlagKind::kSwitch, "",
                            "Puts the model's start token in front if it wants one."};
  const Flag add_end = {"add-end", FlagKind::kSwitch, "",
                        "Puts the model's end token at the end if it wants one."};
  const Flag plain = {"plain-text", FlagKind::kSwitch, "",
                      "Takes special tokens in the text as plain text."};
  const Flag tokens = {"tokens", FlagKind::kText, "IDS", "The token ids: 1,2,3.", true};
  const Flag render = {"render-special", FlagKind::kSwitch, "",
                       "Shows special tokens by their names."};
  return {
      {"tokenize",
       "",
       0,
       "Prints a text's token ids as a JSON array.",
       {kEitherWeightsFlag, model, kEitherWorkerFlag, text_file, text, add_special, add_end, plain},
       RunTokenize},
      {"detokenize",
       "",
       0,
       "Prints the text of token ids.",
       {kEitherWeightsFlag, model, kEitherWorkerFlag, tokens, render},
       RunDetokenize},
  };
}

}  // namespace gguf_offload::cli
