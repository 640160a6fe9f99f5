#include "common/process/process.h"

#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <fstream>
#include <map>
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
  std::map<std::string, uint64_t> bytes;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.ends_with(" kB")) continue;
    bytes[line.substr(0, colon)] = std::strtoull(line.c_str() + colon + 1, nullptr, 10) << 10;
  }
  response.set_resident_bytes(bytes["VmRSS"]);
  response.set_private_bytes(bytes["RssAnon"]);
  response.set_shared_file_bytes(bytes["RssFile"] + bytes["RssShmem"]);
}

}  // namespace gguf_offload
