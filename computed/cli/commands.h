// The commands of offloadctl. Each is one entry of the dispatcher's table; the files beside this
// one (models.cc, generate.cc ...) hold a group each.
#ifndef COMPUTED_CLI_COMMANDS_H_
#define COMPUTED_CLI_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "computed/cli/arguments.h"

namespace gguf_offload::cli {

struct Command {
  absl::string_view name;
  absl::string_view operands;  // for the usage line: "NAME [PATH]"
  size_t max_operands;
  absl::string_view summary;  // one line
  std::vector<Flag> flags;
  absl::Status (*run)(const Arguments& arguments);
};

// models.cc: models, model, tensors
std::vector<Command> ModelCommands();
// loading.cc: load, unload, verify
std::vector<Command> LoadingCommands();
// tensor.cc: tensor
std::vector<Command> TensorCommands();
// tokens.cc: tokenize, detokenize
std::vector<Command> TokenCommands();
// generate.cc: generate
std::vector<Command> GenerateCommands();
// evaluate.cc: evaluate
std::vector<Command> EvaluateCommands();
// placement.cc: placement
std::vector<Command> PlacementCommands();
// health.cc: health
std::vector<Command> HealthCommands();
// experts.cc: experts
std::vector<Command> ExpertCommands();
// diagnostics.cc: memory, sessions, config, build, ping, trace
std::vector<Command> DiagnosticsCommands();

// Flags that many commands share.
inline constexpr Flag kWeightsFlag = {"weights", FlagKind::kText, "ADDR",
                                      "The weight daemon: unix:PATH or HOST:PORT.", true};
inline constexpr Flag kWorkerFlag = {"worker", FlagKind::kText, "ADDR",
                                     "The compute worker: unix:PATH or HOST:PORT.", true};
inline constexpr Flag kEitherWeightsFlag = {"weights", FlagKind::kText, "ADDR",
                                            "A weight daemon: unix:PATH or HOST:PORT."};
inline constexpr Flag kEitherWorkerFlag = {"worker", FlagKind::kText, "ADDR",
                                           "A compute worker: unix:PATH or HOST:PORT."};
inline constexpr Flag kModelFlag = {"model", FlagKind::kText, "NAME",
                                    "The model's name (or give it as an operand)."};
inline constexpr Flag kJsonFlag = {"json", FlagKind::kSwitch, "",
                                   "Prints the daemon's answer as JSON."};

// The model's name: the operand or the flag --model. INVALID_ARGUMENT unless exactly one is given.
inline absl::StatusOr<std::string> ModelName(const Arguments& arguments) {
  const bool operand = !arguments.operands().empty();
  if (operand == arguments.Has("model")) {
    return absl::InvalidArgumentError(operand ? "the model is named twice" : "name the model");
  }
  return operand ? arguments.operands().front() : arguments.Text("model");
}

// The daemon's address: --weights or --worker. INVALID_ARGUMENT unless exactly one is given.
inline absl::StatusOr<std::string> EitherAddress(const Arguments& arguments) {
  if (arguments.Has("weights") == arguments.Has("worker")) {
    return absl::InvalidArgumentError("give one of --weights=ADDR and --worker=ADDR");
  }
  return arguments.Text(arguments.Has("weights") ? "weights" : "worker");
}

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_COMMANDS_H_
