#include "computed/cli/weights_client.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "computed/cli/connection.h"

namespace gguf_offload::cli {

absl::StatusOr<WeightsClient> WeightsClient::Connect(const std::string& address) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = cli::Connect(address);
  if (!channel.ok()) return channel.status();
  return WeightsClient(address, v1::WeightService::NewStub(*channel));
}

absl::StatusOr<v1::GetModelResponse> WeightsClient::GetModel(const std::string& model,
                                                             bool arrays) const {
  grpc::ClientContext context;
  v1::GetModelRequest request;
  request.set_model(model);
  request.set_include_arrays(arrays);
  v1::GetModelResponse response;
  const grpc::Status status = stub_->GetModel(&context, request, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    return absl::NotFoundError(absl::StrCat("no model '", model, "' at ", address_));
  }
  if (!status.ok()) return RpcError(status, address_);
  return response;
}

absl::StatusOr<std::vector<v1::TensorInfo>> WeightsClient::ListTensors(
    const std::string& model) const {
  std::vector<v1::TensorInfo> tensors;
  v1::ListTensorsRequest request;
  request.set_model(model);
  do {
    grpc::ClientContext context;
    v1::ListTensorsResponse response;
    const grpc::Status status = stub_->ListTensors(&context, request, &response);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
      return absl::NotFoundError(absl::StrCat("no model '", model, "' at ", address_));
    }
    if (!status.ok()) return RpcError(status, address_);
    if (response.tensors().empty() && !response.next_page_token().empty()) {
      return absl::InternalError(absl::StrCat(address_, ": an empty page of tensors"));
    }
    tensors.insert(tensors.end(), std::make_move_iterator(response.mutable_tensors()->begin()),
                   std::make_move_iterator(response.mutable_tensors()->end()));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return tensors;
}

}  // namespace gguf_offload::cli
