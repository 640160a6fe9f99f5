// What Abseil's flags lack: names with dashes ("--model-dir") and flags that repeat.
//
//   std::vector<std::string> words = CommandLine(argc, argv);
//   auto models = TakeRepeatedFlag("model", words);      // --model=a --model b
//   absl::Status status = ParseFlags(words);             // everything else, ABSL_FLAG(...,
//   model_dir)
#ifndef COMMON_DAEMON_FLAGS_H_
#define COMMON_DAEMON_FLAGS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gguf_offload {

// The words of a command line, the program's name first.
std::vector<std::string> CommandLine(int argc, char** argv);

// Takes all occurrences of a flag ("--name=value" or "--name value") out of a command line and
// returns their values in order. INVALID_ARGUMENT if one has no value.
absl::StatusOr<std::vector<std::string>> TakeRepeatedFlag(std::string_view name,
                                                          std::vector<std::string>& words);

// Writes dashes in flags' names as underscores, as Abseil's flags are C++ identifiers.
void UseUnderscores(std::vector<std::string>& words);

// UseUnderscores, then lets Abseil parse. INVALID_ARGUMENT for words that are not flags. For flags
// that are unknown or malformed Abseil prints a line and exits with 1.
absl::Status ParseFlags(std::vector<std::string> words);

}  // namespace gguf_offload

#endif  // COMMON_DAEMON_FLAGS_H_
