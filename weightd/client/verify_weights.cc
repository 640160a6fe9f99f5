#include "weightd/client/verify_weights.h"

#include <grpcpp/client_context.h>

#include "absl/strings/str_cat.h"
#include "common/grpc_status/status.h"
#include "gguf_offload/v1/weights.grpc.pb.h"
#include "weightd/client/channel.h"

namespace gguf_offload {

absl::Status VerifyWeights(const WeightSource::Options& options, absl::Time deadline) {
  const auto stub = v1::WeightService::NewStub(
      OpenChannel(options.address, options.credentials, options.server_name));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  v1::VerifyModelRequest request;
  request.set_model(options.model);
  const auto reader = stub->VerifyModel(&context, request);
  std::string changed;
  v1::VerifyModelResponse response;
  while (reader->Read(&response)) {
    if (response.changed() && changed.empty()) changed = response.tensor();
  }
  if (absl::Status status = FromGrpc(reader->Finish()); !status.ok()) return status;
  if (changed.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("model '", options.model, "': the bytes of tensor ",
                                          changed, " are not what they were"));
}

}  // namespace gguf_offload
