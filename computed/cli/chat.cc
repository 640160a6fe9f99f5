#include "computed/cli/chat.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace gguf_offload::cli {
namespace {

constexpr absl::string_view kStart = "<|im_start|>";
constexpr absl::string_view kEnd = "<|im_end|>";

}  // namespace

absl::StatusOr<std::string> ChatPrompt(absl::string_view chat_template, absl::string_view text) {
  constexpr absl::string_view kInstead = "; give the whole prompt without --chat";
  if (chat_template.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the model has no chat template", kInstead));
  }
  if (!absl::StrContains(chat_template, kStart) || !absl::StrContains(chat_template, kEnd)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the model's chat template is not of the one kind that --chat knows (", kStart,
                     ", ", kEnd, ")", kInstead));
  }
  for (const absl::string_view token : {kStart, kEnd}) {
    if (absl::StrContains(text, token)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the prompt has ", token, ", which --chat adds itself"));
    }
  }
  return absl::StrCat(kStart, "user\n", text, kEnd, "\n", kStart, "assistant\n");
}

}  // namespace gguf_offload::cli
