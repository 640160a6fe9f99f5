// offloadctl: the client of both daemons that people use. Exit code 0; 1 after an error, which is
// one line on standard error; 130 after Ctrl-C.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "computed/cli/arguments.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"

namespace gguf_offload::cli {
namespace {

std::vector<Command> AllCommands() {
  std::vector<Command> all;
  for (auto* group :
       {ModelCommands, LoadingCommands, TensorCommands, TokenCommands, GenerateCommands,
        EvaluateCommands, PlacementCommands, ExpertCommands, DiagnosticsCommands, HealthCommands}) {
    std::vector<Command> commands = group();
    std::move(commands.begin(), commands.end(), std::back_inserter(all));
  }
  return all;
}

std::string Usage(const std::vector<Command>& commands) {
  std::string text =
      "offloadctl COMMAND [FLAGS]: talks to weightd (--weights=ADDR) and computed "
      "(--worker=ADDR).\nADDR is unix:PATH or HOST:PORT. `offloadctl COMMAND --help` shows a "
      "command's flags; all have:\n";
  for (const Flag& flag : ConnectionFlags()) {
    absl::StrAppend(&text, "  --", flag.name, "=", flag.value, "  ", flag.help, "\n");
  }
  text.push_back('\n');
  Table table({"COMMAND", ""});
  for (const Command& command : commands) {
    table.Add({absl::StrCat(command.name, command.operands.empty() ? "" : " ", command.operands),
               std::string(command.summary)});
  }
  return text + table.ToString();
}

std::string CommandUsage(const Command& command) {
  std::string text = absl::StrCat("offloadctl ", command.name);
  if (!command.operands.empty()) absl::StrAppend(&text, " ", command.operands);
  Table table({"FLAG", ""});
  for (const Flag& flag : command.flags) {
    std::string spelling = absl::StrCat("--", flag.name);
    if (!flag.value.empty()) absl::StrAppend(&spelling, "=", flag.value);
    if (flag.required) absl::StrAppend(&text, " ", spelling);
    table.Add({std::move(spelling), std::string(flag.help)});
  }
  return absl::StrCat(text, " [FLAGS]\n", command.summary, "\n\n", table.ToString());
}

absl::Status Run(const std::vector<std::string>& words) {
  const std::vector<Command> commands = AllCommands();
  if (words.empty()) {
    return absl::InvalidArgumentError("no command given; offloadctl --help lists them");
  }
  if (words[0] == "--help" || words[0] == "help") {
    Print(Usage(commands));
    return absl::OkStatus();
  }
  const auto command = std::find_if(commands.begin(), commands.end(),
                                    [&](const Command& c) { return c.name == words[0]; });
  if (command == commands.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no command '", words[0], "'; offloadctl --help lists them"));
  }
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  std::vector<Flag> flags = command->flags;
  for (const Flag& flag : ConnectionFlags()) flags.push_back(flag);
  absl::StatusOr<Arguments> arguments = Arguments::Parse(flags, command->max_operands, rest);
  if (!arguments.ok()) return arguments.status();
  if (arguments->help()) {
    Print(CommandUsage(*command));
    return absl::OkStatus();
  }
  if (absl::Status status = UseConnectionFlags(*arguments); !status.ok()) return status;
  return command->run(*arguments);
}

int Main(const std::vector<std::string>& words) {
  absl::Status status = Run(words);
  if (status.ok() && std::fflush(stdout) != 0) {
    status = absl::UnknownError("cannot write to standard output");
  }
  if (status.ok()) return 0;
  std::fflush(stdout);
  std::fprintf(stderr, "offloadctl: %s\n", OneLine(status.message()).c_str());
  return absl::IsCancelled(status) ? 130 : 1;
}

}  // namespace
}  // namespace gguf_offload::cli

int main(int argc, char** argv) {
  return gguf_offload::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
