// Puts what a user says into the form that a chat model was trained on.
//
// A GGUF file has its form as a program in Jinja, tokenizer.chat_template. This is no interpreter
// of it: it knows the programs that write ChatML and nothing else, which
// <|im_start|>ROLE\nTEXT<|im_end|>\n for each message is, by their text. Most models whose
// templates have these tokens add something of their own: a system message, tools, a beginning of
// thoughts.
#ifndef COMPUTED_CLI_CHAT_H_
#define COMPUTED_CLI_CHAT_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gguf_offload::cli {

struct ChatText {
  std::string text;
  size_t begin = 0, end = 0;  // what the user says, in which no special token is to be found
};

// The prompt of a chat in which the user has said `text` and the assistant is to answer, without a
// system message. FAILED_PRECONDITION if `chat_template` is empty or not a known one.
absl::StatusOr<ChatText> ChatPrompt(absl::string_view chat_template, absl::string_view text);

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_CHAT_H_
