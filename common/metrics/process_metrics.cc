#include "common/metrics/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "common/metrics/samples.h"

namespace gguf_offload {
namespace {

// What /proc/self/stat says (proc(5)).
struct ProcessStat {
  double threads = 0;
  double start_ticks = 0;  // since boot
  double virtual_bytes = 0;
  double resident_pages = 0;
};

ProcessStat ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  // The second field is the program's name in parentheses, which may contain anything.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream rest(text.substr(name_end + 1));
  ProcessStat stat;
  std::string field;
  for (int number = 3; number <= 24 && rest >> field; ++number) {
    const double value = std::strtod(field.c_str(), nullptr);
    if (number == 20) stat.threads = value;
    if (number == 22) stat.start_ticks = value;
    if (number == 23) stat.virtual_bytes = value;
    if (number == 24) stat.resident_pages = value;
  }
  return stat;
}

// Seconds since the epoch at which the machine was started; 0 if it does not say.
double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("btime ")) return std::strtod(line.c_str() + sizeof("btime"), nullptr);
  }
  return 0;
}

int OpenDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int count = 0;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(folder);
  return count - 1;  // without the folder's own
}

double Seconds(const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; }

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  const ProcessStat stat = ReadStat();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  rlimit descriptors{};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  prometheus::MetricFamily faults = CounterFamily(
      "gguf_offload_process_page_faults_total",
      "Page faults of the process: minor ones found the page in memory, major ones read it.");
  AddSample(faults, static_cast<double>(usage.ru_minflt), {{"kind", "minor"}});
  AddSample(faults, static_cast<double>(usage.ru_majflt), {{"kind", "major"}});
  return {
      Counter("process_cpu_seconds_total", "User and system time of the process.",
              Seconds(usage.ru_utime) + Seconds(usage.ru_stime)),
      Gauge("process_resident_memory_bytes",
            "Memory of the process that is resident, mapped files included.",
            stat.resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE))),
      Gauge("process_virtual_memory_bytes", "Size of the process's address space.",
            stat.virtual_bytes),
      Gauge("process_open_fds", "Descriptors that are open.", OpenDescriptors()),
      Gauge("process_max_fds", "Most descriptors that may be open.",
            static_cast<double>(descriptors.rlim_cur)),
      Gauge("process_start_time_seconds", "When the process started, since the epoch.",
            BootTime() + stat.start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK))),
      Gauge("process_threads", "Threads of the process.", stat.threads),
      faults,
  };
}

}  // namespace gguf_offload
