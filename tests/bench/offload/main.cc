// Models larger than the GPU's budget against the limits of the link and of the GPU's memory.
//
//   offload_bench [--folder=/dev/shm] [--rows=dense] [--out=RESULTS.md]
//
// --rows: dense, experts, or names of rows, separated by commas; r1-curve only by its name.
// Generates the models it needs in `folder`, checks their logits against the CPU backend, then runs
// each row in a process of its own, so that the driver's count of memory is the row's alone.
// Prints, for each, the floor measured in the same run, the median time of a step, their ratio, and
// the peak of GPU memory beyond the CUDA context. The model of the experts' rows with R1 in their
// name takes 131 GiB, unless --r1-layers makes it smaller.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/bench/offload/rows.h"

ABSL_FLAG(std::string, rows, "dense", "Which rows");
ABSL_FLAG(std::string, out, "", "Also writes the table here");
ABSL_FLAG(bool, check, true, "Compare logits with the CPU backend first");
ABSL_FLAG(std::string, row, "", "For the processes that run one row");

namespace gguf_offload {
namespace {

// Checks on the CPU take as long as the model is large.
constexpr int kMostCheckedR1Layers = 8;

struct Group {
  const char* name;
  std::vector<Row> rows;
};
std::vector<Group> AllRows() { return {{"dense", DenseRows()}, {"experts", ExpertRows()}}; }

std::string CheckOf(const ModelSpec& model) { return absl::StrCat("check-", model.preset); }

// Runs `row` in a process of its own and returns what it printed.
std::string RunInProcess(const std::string& program, const std::string& row, int& failures) {
  const std::string command = absl::StrCat(
      program, " --row=", row, " --folder=", absl::GetFlag(FLAGS_folder),
      " --seconds=", absl::GetFlag(FLAGS_seconds), " --r1_layers=", absl::GetFlag(FLAGS_r1_layers));
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char buffer[4096];
  while (pipe != nullptr && std::fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  if (pipe == nullptr || pclose(pipe) != 0) ++failures;
  return output;
}

bool IsChecked(const ModelSpec& model) {
  if (!absl::GetFlag(FLAGS_check)) return false;
  return model.preset != DeepSeekR1().preset ||
         (model.layers > 0 && model.layers <= kMostCheckedR1Layers);
}

int RunAll(const std::string& program) {
  const std::vector<std::string> wanted = absl::StrSplit(absl::GetFlag(FLAGS_rows), ',');
  const auto is_wanted = [&](const std::string& name) {
    return std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  };
  std::vector<Row> rows;
  for (Group& group : AllRows()) {
    for (Row& row : group.rows) {
      if (is_wanted(row.name) || (row.by_default && is_wanted(group.name))) {
        rows.push_back(std::move(row));
      }
    }
  }
  int failures = 0;
  std::string table = TableHead(), others;
  std::string last_model;
  for (const Row& row : rows) {
    if (row.model.path() != std::exchange(last_model, row.model.path())) {
      if (!Generate(row.model)) return 1;
      if (IsChecked(row.model)) {
        std::printf("%s", RunInProcess(program, CheckOf(row.model), failures).c_str());
      }
    }
    const std::string printed = RunInProcess(program, row.name, failures);
    (absl::StartsWith(printed, "|") ? table : others) += printed;
  }
  std::printf("\n%s%s", table.c_str(), others.c_str());
  if (!absl::GetFlag(FLAGS_out).empty()) {
    std::ofstream(absl::GetFlag(FLAGS_out)) << table << others;
  }
  return failures == 0 ? 0 : 2;
}

int Main(const std::string& program) {
  const std::string name = absl::GetFlag(FLAGS_row);
  if (name.empty()) return RunAll(program);
  for (const Group& group : AllRows()) {
    for (const Row& row : group.rows) {
      if (name == row.name) return row.run();
      if (name == CheckOf(row.model)) return CheckLogits(row.model) ? 0 : 2;
    }
  }
  std::fprintf(stderr, "offload_bench: there is no row %s\n", name.c_str());
  return 1;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return gguf_offload::Main(argv[0]);
}
