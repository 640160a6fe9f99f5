// InferenceService on top of an InferenceSession.
#ifndef COMPUTED_SERVICE_INFERENCE_SERVICE_H_
#define COMPUTED_SERVICE_INFERENCE_SERVICE_H_

#include "computed/service/worker.h"
#include "gguf_offload/v1/inference.grpc.pb.h"

namespace gguf_offload {

// Thread safe.
class InferenceServiceImpl : public v1::InferenceService::CallbackService {
 public:
  // `worker` must outlive the service.
  explicit InferenceServiceImpl(const Worker& worker) : worker_(worker) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::EvaluateResponse>* Evaluate(
      grpc::CallbackServerContext* context, const v1::EvaluateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetServedModelRequest* request,
                                     v1::GetServedModelResponse* response) override;

 private:
  const Worker& worker_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_INFERENCE_SERVICE_H_
