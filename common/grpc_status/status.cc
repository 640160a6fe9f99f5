#include "common/grpc_status/status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {
namespace {

absl::string_view PayloadUrl() {
  return absl::string_view(kGrpcDetailsPayload.data(), kGrpcDetailsPayload.size());
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string details;
  if (const auto payload = status.GetPayload(PayloadUrl()); payload.has_value()) {
    details = std::string(*payload);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  absl::Status converted(
      code >= 1 && code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
      status.error_message());
  if (!status.error_details().empty()) {
    converted.SetPayload(PayloadUrl(), absl::Cord(status.error_details()));
  }
  return converted;
}

}  // namespace gguf_offload
