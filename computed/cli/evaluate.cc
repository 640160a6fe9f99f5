// offloadctl evaluate: what the model says of given tokens.
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/inference.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

absl::StatusOr<v1::EvaluateRequest> BuildRequest(const Arguments& arguments) {
  if (arguments.Has("tokens") == arguments.Has("tokens-file")) {
    return absl::InvalidArgumentError("give one of --tokens=IDS and --tokens-file=FILE");
  }
  std::string text = arguments.Text("tokens");
  if (arguments.Has("tokens-file")) {
    absl::StatusOr<std::string> content = ReadFile(arguments.Text("tokens-file"));
    if (!content.ok()) return content.status();
    text = *std::move(content);
  }
  absl::StatusOr<std::vector<int32_t>> ids = ParseTokenIds(text);
  if (!ids.ok()) return ids.status();
  v1::EvaluateRequest request;
  request.mutable_tokens()->mutable_ids()->Add(ids->begin(), ids->end());
  request.set_logits(arguments.Has("logits"));
  request.set_logprobs(!arguments.Has("logits") || arguments.Has("logprobs"));
  return request;
}

// What the stream of answers to one evaluation has said so far. Not thread-safe.
class EvaluationReader {
 public:
  // Logits go to `out` if it is not null. Both must outlive this object.
  EvaluationReader(const v1::EvaluateRequest& request, OutputFile* out)
      : request_(request), out_(out) {}

  // DATA_LOSS if the answer does not continue the one before.
  absl::Status Add(const v1::EvaluateResponse& response) {
    const bool continues = response.position() == position_ && response.first() == column_;
    if (!continues) {
      if (response.position() != position_ + 1 || response.first() != 0) {
        return absl::DataLossError(absl::StrCat("position ", response.position(), ", logit ",
                                                response.first(), " came after position ",
                                                position_, ", logit ", column_));
      }
      if (absl::Status status = EndRow(); !status.ok()) return status;
      ++position_;
    }
    column_ += response.logits_size();
    if (response.has_next_logprob()) AddLogprob(response);
    if (out_ == nullptr) return absl::OkStatus();
    return out_->Write(response.logits().data(), response.logits_size() * sizeof(float));
  }

  // DATA_LOSS unless every position's row arrived, all rows of the same length.
  absl::Status Finish() {
    if (position_ + 1 != request_.tokens().ids_size()) {
      return absl::DataLossError(absl::StrCat(
          "answers for ", position_ + 1, " positions came, not ", request_.tokens().ids_size()));
    }
    return EndRow();
  }

  int rows() const { return position_ + 1; }
  int64_t columns() const { return columns_; }
  double logprob_sum() const { return logprob_sum_; }
  int logprob_count() const { return logprob_count_; }

 private:
  // Checks the length of the row that has ended, if one had begun.
  absl::Status EndRow() {
    if (position_ < 0) return absl::OkStatus();
    if (columns_ >= 0 && column_ != columns_) {
      return absl::DataLossError(absl::StrCat("position ", position_, " has ", column_,
                                              " logits, those before have ", columns_));
    }
    columns_ = column_;
    column_ = 0;
    return absl::OkStatus();
  }

  void AddLogprob(const v1::EvaluateResponse& response) {
    logprob_sum_ += response.next_logprob();
    ++logprob_count_;
    const auto& ids = request_.tokens().ids();
    if (response.position() + 1 < ids.size()) {
      Print(absl::StrFormat("%d  %d  %.6f\n", response.position() + 1, ids[response.position() + 1],
                            response.next_logprob()));
    }
  }

  const v1::EvaluateRequest& request_;
  OutputFile* const out_;
  int32_t position_ = -1;  // of the current row
  int64_t column_ = 0;     // logits of the current row so far
  int64_t columns_ = -1;   // logits of a whole row, once one has ended
  double logprob_sum_ = 0;
  int logprob_count_ = 0;
};

absl::Status RunEvaluate(const Arguments& arguments) {
  absl::StatusOr<v1::EvaluateRequest> request = BuildRequest(arguments);
  if (!request.ok()) return request.status();
  grpc::ClientContext context;
  const CancelOnInterrupt cancel(&context);
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  const auto stub = v1::InferenceService::NewStub(*channel);
  const auto reader = stub->Evaluate(&context, *request);

  std::optional<OutputFile> out;
  if (request->logits()) {
    absl::StatusOr<OutputFile> created = OutputFile::Create(arguments.Text("logits"));
    if (!created.ok()) return created.status();
    out.emplace(*std::move(created));
  }
  EvaluationReader evaluation(*request, out ? &*out : nullptr);
  v1::EvaluateResponse response;
  while (reader->Read(&response)) {
    if (absl::Status status = evaluation.Add(response); !status.ok()) {
      context.TryCancel();
      return absl::DataLossError(absl::StrCat(address, ": ", status.message()));
    }
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return RpcError(status, address);
  if (absl::Status end = evaluation.Finish(); !end.ok()) {
    return absl::DataLossError(absl::StrCat(address, ": ", end.message()));
  }
  if (request->logits()) {
    if (absl::Status closed = out->Close(); !closed.ok()) return closed;
    Print(absl::StrFormat("%d rows of %d logits\n", evaluation.rows(), evaluation.columns()));
  }
  if (evaluation.logprob_count() > 0) {
    Print(absl::StrFormat("perplexity %.6f over %d tokens\n",
                          std::exp(-evaluation.logprob_sum() / evaluation.logprob_count()),
                          evaluation.logprob_count()));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> EvaluateCommands() {
  const Flag tokens = {"tokens", FlagKind::kText, "IDS", "The token ids: 1,2,3."};
  const Flag file = {"tokens-file", FlagKind::kText, "FILE",
                     "The token ids from a file, as `offloadctl tokenize` prints them."};
  const Flag logits = {"logits", FlagKind::kText, "FILE",
                       "Writes the logits: little-endian float32, a row a position."};
  const Flag logprobs = {"logprobs", FlagKind::kSwitch, "",
                         "Prints position, id and log probability of each token but the first; the "
                         "default without --logits."};
  return {{"evaluate",
           "",
           0,
           "Computes logits or log probabilities of given tokens.",
           {kWorkerFlag, tokens, file, logits, logprobs},
           RunEvaluate}};
}

}  // namespace gguf_offload::cli
