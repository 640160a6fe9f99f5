#include "common/grpc_status/retry_info.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/duration.pb.h>

#include <string>
#include <string_view>

#include "absl/strings/cord.h"
#include "common/grpc_status/status.h"

namespace gguf_offload {
namespace {

void AppendVarint(uint64_t value, std::string& out) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// A length-delimited field (protobuf wire type 2).
void AppendField(int number, std::string_view value, std::string& out) {
  AppendVarint(number << 3 | 2, out);
  AppendVarint(value.size(), out);
  out.append(value);
}

}  // namespace

void AddRetryInfo(absl::Duration delay, absl::Status& status) {
  google::protobuf::Duration duration;
  duration.set_seconds(absl::ToInt64Seconds(delay));
  duration.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay - absl::Seconds(duration.seconds()))));

  // message RetryInfo { Duration retry_delay = 1; }
  std::string retry_info;
  AppendField(1, duration.SerializeAsString(), retry_info);
  google::protobuf::Any any;
  any.set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  any.set_value(retry_info);

  // message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  std::string details;
  AppendVarint(1 << 3 | 0, details);
  AppendVarint(static_cast<uint64_t>(status.raw_code()), details);
  AppendField(2, std::string(status.message()), details);
  AppendField(3, any.SerializeAsString(), details);
  status.SetPayload(std::string(kGrpcDetailsPayload), absl::Cord(details));
}

}  // namespace gguf_offload
