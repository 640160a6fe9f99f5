#include "common/grpc_status/retry_info.h"

#include <gtest/gtest.h>

#include <string>

#include "common/grpc_status/status.h"

namespace gguf_offload {
namespace {

// google.rpc.Status{code 8, message "full", details [Any{RetryInfo{1 s, 500,000,000 ns}}]}, put
// together by the rules of the protobuf encoding.
TEST(RetryInfoTest, TravelsAsGrpcStatusDetails) {
  absl::Status status = absl::ResourceExhaustedError("full");
  AddRetryInfo(absl::Milliseconds(1500), status);
  const std::string retry_info = std::string("\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01", 10);
  const std::string url = "type.googleapis.com/google.rpc.RetryInfo";
  std::string any = "\x0a" + std::string(1, static_cast<char>(url.size())) + url;
  any += "\x12" + std::string(1, static_cast<char>(retry_info.size())) + retry_info;
  std::string expected = std::string("\x08\x08\x12\x04") + "full";
  expected += "\x1a" + std::string(1, static_cast<char>(any.size())) + any;
  EXPECT_EQ(ToGrpc(status).error_details(), expected);
  EXPECT_EQ(ToGrpc(status).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace gguf_offload
