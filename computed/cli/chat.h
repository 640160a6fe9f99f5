// Puts what a user says into the form that a chat model was trained on.
//
// A GGUF file has its form as a program in Jinja, tokenizer.chat_template. This is no interpreter
// of it: it knows the one kind that most models share, ChatML
// (<|im_start|>ROLE\nTEXT<|im_end|>\n for each message), and tells it by these two tokens.
#ifndef COMPUTED_CLI_CHAT_H_
#define COMPUTED_CLI_CHAT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gguf_offload::cli {

// The prompt of a chat in which the user has said `text` and the assistant is to answer, without a
// system message. FAILED_PRECONDITION if `chat_template` is empty or of another kind;
// INVALID_ARGUMENT if `text` has one of the two tokens, which would end the user's message.
absl::StatusOr<std::string> ChatPrompt(absl::string_view chat_template, absl::string_view text);

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_CHAT_H_
