#include "common/process/process.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace gguf_offload {
namespace {

constexpr char kVersion[] = "0.1.0";

}  // namespace

void FillBuildInfo(std::string_view program, v1::GetBuildInfoResponse& response) {
  response.set_program(std::string(program));
  response.set_version(kVersion);
#if defined(__clang__)
  response.set_compiler(__VERSION__);
#else
  response.set_compiler("g++ " __VERSION__);
#endif
  response.set_grpc_version(grpc::Version());
}

void FillProcessMemory(v1::GetMemoryResponse& response) {
  std::ifstream rollup("/proc/self/smaps_rollup");
  uint64_t resident = 0, private_bytes = 0, anonymous = 0;
  for (std::string line; std::getline(rollup, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string_view key = std::string_view(line).substr(0, colon);
    const uint64_t bytes = std::strtoull(line.c_str() + colon + 1, nullptr, 10) << 10;
    if (key == "Rss") resident = bytes;
    if (key == "Private_Clean" || key == "Private_Dirty") private_bytes += bytes;
    if (key == "Anonymous") anonymous = bytes;
  }
  response.set_resident_bytes(resident);
  response.set_private_bytes(private_bytes);
  response.set_shared_file_bytes(resident - std::min(resident, anonymous));
}

}  // namespace gguf_offload
