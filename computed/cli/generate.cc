// offloadctl generate: continues a prompt, printing the text as it comes.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "computed/cli/chat.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/inference.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

constexpr Flag kPromptFlag = {"prompt", FlagKind::kText, "TEXT", "The text to continue."};
constexpr Flag kPromptFileFlag = {"prompt-file", FlagKind::kText, "FILE",
                                  "The text to continue, from a file; - is standard input."};
constexpr Flag kTokensFlag = {"tokens", FlagKind::kText, "IDS", "The prompt as token ids: 1,2,3."};

absl::Status SetPrompt(const Arguments& arguments, v1::GenerateRequest& request) {
  const int given =
      arguments.Has("prompt") + arguments.Has("prompt-file") + arguments.Has("tokens");
  if (given != 1) {
    return absl::InvalidArgumentError(
        "give one of --prompt=TEXT, --prompt-file=FILE and --tokens=IDS");
  }
  if (arguments.Has("tokens")) {
    absl::StatusOr<std::vector<int32_t>> ids = ParseTokenIds(arguments.Text("tokens"));
    if (!ids.ok()) return ids.status();
    request.mutable_tokens()->mutable_ids()->Add(ids->begin(), ids->end());
    return absl::OkStatus();
  }
  if (arguments.Has("prompt")) {
    request.set_text(arguments.Text("prompt"));
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> text = ReadTextFile(arguments.Text("prompt-file"));
  if (!text.ok()) return text.status();
  request.set_text(*std::move(text));
  return absl::OkStatus();
}

// Makes a prompt in the form of a chat of the text that the request has.
absl::Status ApplyChatTemplate(v1::InferenceService::Stub& stub, const std::string& address,
                               v1::GenerateRequest& request) {
  if (!request.has_text() || request.plain_text()) {
    return absl::InvalidArgumentError(
        "--chat wants a text, in which special tokens are parsed: neither --tokens nor "
        "--plain-text");
  }
  grpc::ClientContext context;
  v1::GetServedModelResponse model;
  const grpc::Status status = stub.GetModel(&context, {}, &model);
  if (!status.ok()) return RpcError(status, address);
  absl::StatusOr<ChatText> prompt = ChatPrompt(model.chat_template(), request.text());
  if (!prompt.ok()) return prompt.status();
  v1::TextRange& literal = *request.add_literal();
  literal.set_begin(prompt->begin);
  literal.set_end(prompt->end);
  request.set_text(std::move(prompt->text));
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> BuildRequest(const Arguments& arguments) {
  v1::GenerateRequest request;
  if (absl::Status status = SetPrompt(arguments, request); !status.ok()) return status;
  for (const char* name : {"max-tokens", "top-k", "penalty-window", "logprobs"}) {
    if (arguments.Integer(name, 0) > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " is too large"));
    }
  }
  request.set_max_tokens(static_cast<int32_t>(arguments.Integer("max-tokens", 0)));
  request.set_top_logprobs(static_cast<int32_t>(arguments.Integer("logprobs", 0)));
  request.set_ignore_end_of_text(arguments.Has("ignore-end-of-text"));
  request.set_plain_text(arguments.Has("plain-text"));
  for (std::string& stop : arguments.Texts("stop")) request.add_stop(std::move(stop));
  v1::SamplingOptions& sampling = *request.mutable_sampling();
  sampling.set_temperature(static_cast<float>(arguments.Real("temperature", 0)));
  sampling.set_top_k(static_cast<int32_t>(arguments.Integer("top-k", 0)));
  sampling.set_top_p(static_cast<float>(arguments.Real("top-p", 0)));
  sampling.set_min_p(static_cast<float>(arguments.Real("min-p", 0)));
  sampling.set_repetition_penalty(static_cast<float>(arguments.Real("repetition-penalty", 0)));
  sampling.set_frequency_penalty(static_cast<float>(arguments.Real("frequency-penalty", 0)));
  sampling.set_presence_penalty(static_cast<float>(arguments.Real("presence-penalty", 0)));
  sampling.set_penalty_window(static_cast<int32_t>(arguments.Integer("penalty-window", 0)));
  if (arguments.Has("seed")) {
    // Workers choose seeds of all 64 bits.
    uint64_t seed = 0;
    if (!absl::SimpleAtoi(arguments.Text("seed"), &seed)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--seed=", arguments.Text("seed"), " is not a whole number of 64 bits"));
    }
    sampling.set_seed(seed);
  }
  return request;
}

double Rate(int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

std::string TimingsLine(const v1::GenerateResult& result, bool sampled) {
  std::string reason = v1::FinishReason_Name(result.finish_reason());
  reason = absl::AsciiStrToLower(absl::StripPrefix(reason, "FINISH_REASON_"));
  // The first token comes out of the prefill, so decoding made one token fewer.
  const int decoded = result.generated_tokens() > 0 ? result.generated_tokens() - 1 : 0;
  std::string line = absl::StrFormat(
      "prompt %d tokens in %.3f s (%.1f/s), generated %d tokens in %.3f s (%.1f/s), queued %.3f s, "
      "finish %s",
      result.prompt_tokens(), result.prefill_seconds(),
      Rate(result.prompt_tokens(), result.prefill_seconds()), result.generated_tokens(),
      result.decode_seconds(), Rate(decoded, result.decode_seconds()), result.queue_seconds(),
      reason);
  if (sampled) absl::StrAppend(&line, ", seed ", result.seed());
  return line;
}

// "12  -0.693147  12:-0.693147 7:-1.2"
std::string LogprobsLine(const v1::TokenLogprobs& logprobs) {
  std::vector<std::string> top;
  for (const v1::TokenLogprob& entry : logprobs.top()) {
    top.push_back(absl::StrFormat("%d:%.6f", entry.token(), entry.logprob()));
  }
  return absl::StrFormat("%d  %.6f  %s\n", logprobs.chosen().token(), logprobs.chosen().logprob(),
                         absl::StrJoin(top, " "));
}

absl::Status RunGenerate(const Arguments& arguments) {
  absl::StatusOr<v1::GenerateRequest> request = BuildRequest(arguments);
  if (!request.ok()) return request.status();
  grpc::ClientContext context;
  const CancelOnInterrupt cancel(&context);
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  const auto stub = v1::InferenceService::NewStub(*channel);
  if (arguments.Has("chat")) {
    if (absl::Status status = ApplyChatTemplate(*stub, address, *request); !status.ok()) {
      return status;
    }
  }
  const auto reader = stub->Generate(&context, *request);

  const bool json = arguments.Has("json");
  std::vector<int32_t> ids;
  std::vector<v1::TokenLogprobs> logprobs;
  v1::GenerateResponse response;
  v1::GenerateResult result;
  while (reader->Read(&response)) {
    Print(json ? ToJsonLine(response) : response.text());
    std::fflush(stdout);
    ids.insert(ids.end(), response.tokens().begin(), response.tokens().end());
    logprobs.insert(logprobs.end(), response.logprobs().begin(), response.logprobs().end());
    if (response.has_result()) result = response.result();
  }
  const grpc::Status status = reader->Finish();
  if (!json && (status.ok() || !ids.empty())) Print("\n");
  if (!status.ok()) return RpcError(status, address);
  if (!json && arguments.Has("ids")) Print(absl::StrCat("[", absl::StrJoin(ids, ","), "]\n"));
  if (!json) {
    for (const v1::TokenLogprobs& entry : logprobs) Print(LogprobsLine(entry));
  }
  std::fflush(stdout);
  std::fputs((TimingsLine(result, request->sampling().temperature() > 0) + "\n").c_str(), stderr);
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> GenerateCommands() {
  std::vector<Flag> flags = {
      kWorkerFlag,
      kPromptFlag,
      kPromptFileFlag,
      kTokensFlag,
      {"chat", FlagKind::kSwitch, "",
       "The prompt is what a user says; the model answers (models with a ChatML template)."},
      {"max-tokens", FlagKind::kInteger, "N", "Most tokens to generate; 0 means up to 256."},
      {"temperature", FlagKind::kReal, "T", "0, the default, always takes the likeliest token."},
      {"seed", FlagKind::kText, "S", "Equal seeds give equal texts."},
      {"top-k", FlagKind::kInteger, "K", "Only the K likeliest tokens."},
      {"top-p", FlagKind::kReal, "P", "Only the likeliest tokens that add up to P."},
      {"min-p", FlagKind::kReal, "P", "Only tokens at least P times as likely as the likeliest."},
      {"repetition-penalty", FlagKind::kReal, "R", "Makes tokens seen before less likely."},
      {"frequency-penalty", FlagKind::kReal, "R", "The same, once for each time seen."},
      {"presence-penalty", FlagKind::kReal, "R", "The same, once if seen at all."},
      {"penalty-window", FlagKind::kInteger, "N", "How many of the last tokens count as seen."},
      {"stop", FlagKind::kText, "TEXT", "Ends before this text; may be repeated.", false, true},
      {"ignore-end-of-text", FlagKind::kSwitch, "", "Goes on after the model's end of text."},
      {"plain-text", FlagKind::kSwitch, "", "Does not parse special tokens in the prompt."},
      {"ids", FlagKind::kSwitch, "", "Prints the generated token ids after the text."},
      {"logprobs", FlagKind::kInteger, "N",
       "Prints each token's log probability and those of the N likeliest."},
      {"json", FlagKind::kSwitch, "", "Prints the worker's answers, one JSON document a line."},
  };
  return {{"generate", "", 0, "Continues a prompt and streams the text.", flags, RunGenerate}};
}

}  // namespace gguf_offload::cli
