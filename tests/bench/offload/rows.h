// The rows of the benchmark's table: one workload each, measured in a process of its own.
#ifndef TESTS_BENCH_OFFLOAD_ROWS_H_
#define TESTS_BENCH_OFFLOAD_ROWS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/offload/bench_model.h"

namespace gguf_offload {

struct Row {
  std::string name;
  ModelSpec model;
  // Measures and prints the row's line; the program's exit code: 0 if what was to be reached was.
  std::function<int()> run;
  bool by_default = true;  // part of --rows=all
};

// What a row prints, in the order of the table's columns.
struct RowResult {
  std::string title;
  uint64_t link_bytes = 0;  // over the link a step, the median
  std::string floor;        // where it comes from
  double floor_seconds = 0;
  double seconds = 0;  // the median step
  double ratio = 0;
  std::string bound;
  uint64_t peak_bytes = 0;  // of GPU memory, by the driver's count
  uint64_t budget_bytes = 0;
  bool reached = false;
};
std::string TableHead();
// Prints the line; an exit code.
int Print(const RowResult& result);
// Prints to standard error how the times were spread and what the lanes of the engine did.
void PrintDetails(const std::string& name, const std::vector<double>& seconds,
                  const LinkCounters& counters);

std::vector<Row> DenseRows();
std::vector<Row> ExpertRows();

}  // namespace gguf_offload

#endif  // TESTS_BENCH_OFFLOAD_ROWS_H_
