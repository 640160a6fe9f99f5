// The border between gRPC's status type and the project's own (absl::Status). Their codes have the
// same numbers; this is the one place that relies on it.
#ifndef COMMON_GRPC_STATUS_STATUS_H_
#define COMMON_GRPC_STATUS_STATUS_H_

#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace gguf_offload {

// Type URL of the absl payload that carries grpc::Status::error_details() (a serialized
// google.rpc.Status) through both conversions, unread.
inline constexpr std::string_view kGrpcDetailsPayload = "type.gguf-offload/grpc-status-details";

// Code, message and details are kept.
grpc::Status ToGrpc(const absl::Status& status);

// Code, message and details are kept; a code outside the canonical ones becomes UNKNOWN.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace gguf_offload

#endif  // COMMON_GRPC_STATUS_STATUS_H_
