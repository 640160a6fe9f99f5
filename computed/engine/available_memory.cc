#include "computed/engine/available_memory.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/match.h"

namespace gguf_offload {

uint64_t AvailableMemory() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    if (absl::StartsWith(line, "MemAvailable:")) {
      return std::strtoull(line.c_str() + sizeof("MemAvailable:"), nullptr, 10) << 10;
    }
  }
  return 0;
}

}  // namespace gguf_offload
