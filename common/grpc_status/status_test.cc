#include "common/grpc_status/status.h"

#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

TEST(GrpcStatus, OkBothWays) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(GrpcStatus, NamedCodesAgree) {
  EXPECT_EQ(ToGrpc(absl::DataLossError("x")).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(ToGrpc(absl::UnavailableError("x")).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      FromGrpc(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "x"))));
}

TEST(GrpcStatus, EveryCodeSurvivesARoundTrip) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status converted = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(converted.error_code()), code);
    EXPECT_EQ(converted.error_message(), "why");
    EXPECT_EQ(FromGrpc(converted), status);
  }
}

TEST(GrpcStatus, DetailsAreKept) {
  const grpc::Status status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", "\x01\x02 details");
  EXPECT_EQ(ToGrpc(FromGrpc(status)).error_details(), "\x01\x02 details");
}

}  // namespace
}  // namespace gguf_offload
