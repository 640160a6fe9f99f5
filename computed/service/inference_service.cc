#include "computed/service/inference_service.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/daemon/client_identity.h"
#include "common/daemon/request_id.h"
#include "common/grpc_status/status.h"
#include "computed/service/generate_call.h"
#include "computed/service/literal_ranges.h"

namespace gguf_offload {
namespace {

// A stream that ends at once.
template <typename Response>
grpc::ServerWriteReactor<Response>* Reject(const absl::Status& status) {
  class Rejection : public grpc::ServerWriteReactor<Response> {
   public:
    explicit Rejection(const absl::Status& status) { this->Finish(ToGrpc(status)); }
    void OnDone() override { delete this; }
  };
  return new Rejection(status);
}

// Ends a request that is none of the session's yet, and counts it.
template <typename Response>
grpc::ServerWriteReactor<Response>* TurnAway(SessionEvents& events, const absl::Status& status) {
  auto why = SessionEvents::Rejection::kInvalid;
  if (absl::IsUnavailable(status)) why = SessionEvents::Rejection::kDraining;
  if (absl::IsResourceExhausted(status)) why = SessionEvents::Rejection::kClientLimit;
  events.OnRejected(why);
  return Reject<Response>(status);
}

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// Who asks, and until when.
void AddCaller(const grpc::CallbackServerContext& context, Request& request) {
  request.peer = context.peer();
  request.id = RequestIdOf(context);
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    request.deadline = absl::FromChrono(deadline);
  }
}

// The file's chat template, as GetModel gives it.
std::string ChatTemplate(const v1::Manifest& manifest) {
  constexpr size_t kMostBytes = 1 << 20;  // far from what a message may hold
  const auto found = manifest.metadata().find("tokenizer.chat_template");
  if (found == manifest.metadata().end()) return "";
  const std::string& text = found->second.string_value();
  return text.size() <= kMostBytes ? text : "";
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  absl::StatusOr<CallGate::Pass> pass = worker_.gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) return TurnAway<v1::GenerateResponse>(*worker_.events, pass.status());
  absl::StatusOr<Request> translated = ToRequest(*request, worker_);
  if (!translated.ok()) {
    return TurnAway<v1::GenerateResponse>(*worker_.events, translated.status());
  }
  AddCaller(*context, *translated);
  auto call =
      std::make_shared<GenerateCall>(*worker_.session, *std::move(pass), translated->sampling.seed);
  call->Start(*std::move(translated));
  return call.get();
}

grpc::ServerWriteReactor<v1::EvaluateResponse>* InferenceServiceImpl::Evaluate(
    grpc::CallbackServerContext* context, const v1::EvaluateRequest* request) {
  absl::StatusOr<CallGate::Pass> pass = worker_.gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) return TurnAway<v1::EvaluateResponse>(*worker_.events, pass.status());
  absl::StatusOr<Request> translated = ToRequest(*request);
  if (!translated.ok()) {
    return TurnAway<v1::EvaluateResponse>(*worker_.events, translated.status());
  }
  AddCaller(*context, *translated);
  auto call = std::make_shared<EvaluateCall>(*worker_.session, *std::move(pass), *request);
  call->Start(*std::move(translated));
  return call.get();
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  absl::StatusOr<CallGate::Pass> pass = worker_.gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) return Finish(context, pass.status());
  if (worker_.tokenizer == nullptr) return Finish(context, worker_.tokenizer_error);
  const auto literal = LiteralRanges(request->literal(), request->text().size());
  if (!literal.ok()) return Finish(context, literal.status());
  for (int32_t token :
       worker_.tokenizer->Encode(request->text(), {.add_bos = request->add_special(),
                                                  .add_eos = request->add_end(),
                                                  .parse_special = !request->plain_text(),
                                                  .literal = *literal})) {
    response->add_tokens(token);
  }
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  absl::StatusOr<CallGate::Pass> pass = worker_.gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) return Finish(context, pass.status());
  if (worker_.tokenizer == nullptr) return Finish(context, worker_.tokenizer_error);
  const std::vector<int32_t> tokens(request->tokens().begin(), request->tokens().end());
  for (int32_t token : tokens) {
    if (token >= 0 && token < worker_.tokenizer->vocab_size()) continue;
    return Finish(context, absl::InvalidArgumentError(absl::StrCat(
                               "token ", token, " is not 0 to ",
                               worker_.tokenizer->vocab_size() - 1, ", as the vocabulary is")));
  }
  response->set_text(worker_.tokenizer->Decode(tokens, request->render_special()));
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                         const v1::GetServedModelRequest* request,
                                                         v1::GetServedModelResponse* response) {
  absl::StatusOr<CallGate::Pass> pass = worker_.gate->Enter(ClientIdentity(*context));
  if (!pass.ok()) return Finish(context, pass.status());
  const v1::Manifest& manifest = worker_.source->manifest();
  const TransformerShape& shape = worker_.architecture->shape();
  response->set_name(manifest.name());
  response->set_generation(manifest.generation());
  response->set_architecture(manifest.architecture());
  response->set_vocabulary_size(static_cast<int32_t>(shape.vocabulary));
  response->set_context_tokens(worker_.context_tokens);
  response->set_layer_count(shape.layers);
  response->set_embedding_size(static_cast<int32_t>(shape.embedding));
  uint64_t bytes = 0;
  for (const v1::TensorInfo& tensor : manifest.tensors()) bytes += tensor.bytes();
  response->set_weight_bytes(bytes);
  response->set_backend(std::string(worker_.engine->backend().name()));
  response->set_activations(worker_.activations);
  if (worker_.tokenizer != nullptr) {
    if (worker_.tokenizer->bos().has_value()) response->set_bos_token(*worker_.tokenizer->bos());
    if (worker_.tokenizer->eos().has_value()) response->set_eos_token(*worker_.tokenizer->eos());
  }
  response->set_chat_template(ChatTemplate(manifest));
  return Finish(context, absl::OkStatus());
}

}  // namespace gguf_offload
