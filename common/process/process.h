// What a daemon says of its own process and build.
#ifndef COMMON_PROCESS_PROCESS_H_
#define COMMON_PROCESS_PROCESS_H_

#include <string_view>

#include "gguf_offload/v1/diagnostics.pb.h"

namespace gguf_offload {

// Program, version, compiler and gRPC's version.
void FillBuildInfo(std::string_view program, v1::GetBuildInfoResponse& response);

// Resident, anonymous and file-backed bytes, as Linux counts them (proc(5), /proc/pid/status).
void FillProcessMemory(v1::GetMemoryResponse& response);

}  // namespace gguf_offload

#endif  // COMMON_PROCESS_PROCESS_H_
