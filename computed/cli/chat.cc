#include "computed/cli/chat.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace gguf_offload::cli {
namespace {

// Programs that write ChatML alone: one message after the other, then the assistant's role.
constexpr absl::string_view kChatMl[] = {
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
};

constexpr absl::string_view kBefore = "<|im_start|>user\n";
constexpr absl::string_view kAfter = "<|im_end|>\n<|im_start|>assistant\n";

}  // namespace

absl::StatusOr<ChatText> ChatPrompt(absl::string_view chat_template, absl::string_view text) {
  constexpr absl::string_view kInstead = "; give the whole prompt without --chat";
  if (chat_template.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the model has no chat template", kInstead));
  }
  if (std::ranges::find(kChatMl, chat_template) == std::end(kChatMl)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's chat template is not of the one kind that --chat knows, ChatML and nothing "
        "else",
        kInstead));
  }
  return ChatText{.text = absl::StrCat(kBefore, text, kAfter),
                  .begin = kBefore.size(),
                  .end = kBefore.size() + text.size()};
}

}  // namespace gguf_offload::cli
