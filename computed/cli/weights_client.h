// The few calls to the weight daemon that several commands make.
#ifndef COMPUTED_CLI_WEIGHTS_CLIENT_H_
#define COMPUTED_CLI_WEIGHTS_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gguf_offload/v1/weights.grpc.pb.h"

namespace gguf_offload::cli {

// A connection to a weight daemon. Errors name its address. Thread-safe.
class WeightsClient {
 public:
  // INVALID_ARGUMENT for a malformed address; does not wait for the connection.
  static absl::StatusOr<WeightsClient> Connect(const std::string& address);

  // NOT_FOUND if there is no such model. With `arrays` the vocabulary is included.
  absl::StatusOr<v1::GetModelResponse> GetModel(const std::string& model, bool arrays) const;

  // All tensors of a model, in the files' order.
  absl::StatusOr<std::vector<v1::TensorInfo>> ListTensors(const std::string& model) const;

  v1::WeightService::Stub& stub() const { return *stub_; }
  const std::string& address() const { return address_; }

 private:
  WeightsClient(std::string address, std::shared_ptr<v1::WeightService::Stub> stub)
      : address_(std::move(address)), stub_(std::move(stub)) {}

  std::string address_;
  std::shared_ptr<v1::WeightService::Stub> stub_;
};

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_WEIGHTS_CLIENT_H_
