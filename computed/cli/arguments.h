// The command line of offloadctl: which flags a command takes, and their values once parsed.
//
// Flags are written `--name=value` or `--name value`, switches `--name`; everything after `--` is
// an operand. Values are checked while parsing, so that the commands can read them without failing.
#ifndef COMPUTED_CLI_ARGUMENTS_H_
#define COMPUTED_CLI_ARGUMENTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gguf_offload::cli {

enum class FlagKind {
  kSwitch,   // takes no value
  kText,     // any text in UTF-8; of a flag whose value is called FILE, any bytes
  kInteger,  // a whole number of at least 0 that fits in 63 bits
  kReal,     // a finite number
};

// One flag of a command.
struct Flag {
  absl::string_view name;   // without dashes
  FlagKind kind;            // what values it takes
  absl::string_view value;  // the value's name in the usage line: "ADDR"; empty for switches
  absl::string_view help;   // one line
  bool required = false;
  bool repeated = false;  // kText only: may be given several times
};

// The operands and flag values of one invocation. A plain value; reading it from several threads is
// safe.
class Arguments {
 public:
  // Parses what follows the command's name. `max_operands` is how many operands the command takes
  // at most. INVALID_ARGUMENT, in one line, for an unknown flag, a bad or missing value, a flag
  // given twice, or too many operands. `--help` suppresses the check for required flags.
  static absl::StatusOr<Arguments> Parse(absl::Span<const Flag> flags, size_t max_operands,
                                         absl::Span<const std::string> words);

  bool help() const { return Has("help"); }
  const std::vector<std::string>& operands() const { return operands_; }

  bool Has(absl::string_view name) const;
  // The value of a kText flag, or `otherwise` if it was not given.
  std::string Text(absl::string_view name, absl::string_view otherwise = "") const;
  // All values of a repeated kText flag, in order.
  std::vector<std::string> Texts(absl::string_view name) const;
  // The value of a kInteger flag, or `otherwise`.
  int64_t Integer(absl::string_view name, int64_t otherwise) const;
  // The value of a kReal flag, or `otherwise`.
  double Real(absl::string_view name, double otherwise) const;

 private:
  // Values by flag name, in the order given; a switch has one empty value.
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> operands_;
};

// Parses token ids "1,2,3" (blanks and an enclosing pair of brackets are allowed, so that what
// `offloadctl tokenize` prints can be given back). INVALID_ARGUMENT if it is not a list of int32 >=
// 0.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text);

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_ARGUMENTS_H_
