#include "tests/bench/offload/rows.h"

#include <algorithm>
#include <cstdio>

namespace gguf_offload {

std::string TableHead() {
  return "| workload | over the link a step | floor | time | ratio | to reach | peak GPU memory | "
         "reached |\n|---|---|---|---|---|---|---|---|\n";
}

int Print(const RowResult& result) {
  const bool reached = result.reached && result.peak_bytes <= result.budget_bytes;
  std::printf("| %s | %.0f MB | %.2f ms (%s) | %.2f ms | %.3f | %s | %.0f MiB of %.0f | %s |\n",
              result.title.c_str(), result.link_bytes / 1e6, result.floor_seconds * 1e3,
              result.floor.c_str(), result.seconds * 1e3, result.ratio, result.bound.c_str(),
              result.peak_bytes / 1048576.0, result.budget_bytes / 1048576.0,
              reached ? "yes" : "NO");
  return reached ? 0 : 2;
}

void PrintDetails(const std::string& name, const std::vector<double>& seconds,
                  const LinkCounters& counters) {
  std::fprintf(
      stderr,
      "%s: %zu steps, fastest %.2f ms, slowest %.2f ms; copy lane busy %.2f s, idle %.2f s; "
      "compute lane busy %.2f s, idle %.2f s, stalls %lu\n",
      name.c_str(), seconds.size(), *std::min_element(seconds.begin(), seconds.end()) * 1e3,
      *std::max_element(seconds.begin(), seconds.end()) * 1e3, counters.copy_busy_seconds,
      counters.copy_idle_seconds, counters.compute_busy_seconds, counters.compute_idle_seconds,
      static_cast<unsigned long>(counters.ring_stalls));
}

}  // namespace gguf_offload
