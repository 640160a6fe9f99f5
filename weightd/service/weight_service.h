// The WeightService (weights.proto) over a ModelStore.
#ifndef WEIGHTD_SERVICE_WEIGHT_SERVICE_H_
#define WEIGHTD_SERVICE_WEIGHT_SERVICE_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>

#include "absl/status/status.h"
#include "gguf_offload/v1/weights.grpc.pb.h"
#include "weightd/service/service_core.h"

namespace gguf_offload {

// All methods by callbacks, and of those StreamBlocks with unparsed messages.
template <typename Service>
using WeightServiceBase =
    v1::WeightService::WithCallbackMethod_ListModels<v1::WeightService::WithCallbackMethod_GetModel<
        v1::WeightService::WithCallbackMethod_ListTensors<
            v1::WeightService::WithCallbackMethod_LoadModel<
                v1::WeightService::WithCallbackMethod_UnloadModel<
                    v1::WeightService::WithCallbackMethod_VerifyModel<
                        v1::WeightService::WithCallbackMethod_Attach<
                            v1::WeightService::WithCallbackMethod_ReadBlocks<
                                v1::WeightService::WithRawCallbackMethod_StreamBlocks<
                                    Service>>>>>>>>>;

// Methods validate, delegate and convert the status. Thread safe.
class WeightService final : public WeightServiceBase<v1::WeightService::Service> {
 public:
  // `core` is not owned and must outlive the server.
  explicit WeightService(ServiceCore* core) : core_(core) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* ListTensors(grpc::CallbackServerContext* context,
                                        const v1::ListTensorsRequest* request,
                                        v1::ListTensorsResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;
  grpc::ServerWriteReactor<v1::VerifyModelResponse>* VerifyModel(
      grpc::CallbackServerContext* context, const v1::VerifyModelRequest* request) override;
  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::ReadBlocksResponse>* ReadBlocks(
      grpc::CallbackServerContext* context, const v1::ReadBlocksRequest* request) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StreamBlocks(
      grpc::CallbackServerContext* context) override;

 private:
  // Runs a unary method on the work queue.
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context,
                                std::function<absl::Status()> method);

  ServiceCore* const core_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_WEIGHT_SERVICE_H_
