// google.rpc.RetryInfo: how long a client that was turned away should wait.
#ifndef COMMON_GRPC_STATUS_RETRY_INFO_H_
#define COMMON_GRPC_STATUS_RETRY_INFO_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gguf_offload {

// Attaches a serialized google.rpc.Status with a RetryInfo (googleapis, google/rpc/status.proto and
// error_details.proto) to `status`, as gRPC's clients find it in "grpc-status-details-bin".
void AddRetryInfo(absl::Duration delay, absl::Status& status);

}  // namespace gguf_offload

#endif  // COMMON_GRPC_STATUS_RETRY_INFO_H_
