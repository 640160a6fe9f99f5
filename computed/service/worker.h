// What the worker's services answer from.
#ifndef COMPUTED_SERVICE_WORKER_H_
#define COMPUTED_SERVICE_WORKER_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "common/daemon/call_gate.h"
#include "computed/engine/engine.h"
#include "computed/model/architecture.h"
#include "computed/model/model_tensors.h"
#include "computed/runtime/trace.h"
#include "computed/session/inference_session.h"
#include "computed/session/session_events.h"
#include "computed/tokenizer/tokenizer.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// Owns nothing; everything outlives the server.
struct Worker {
  CallGate* gate = nullptr;
  WeightSource* source = nullptr;
  const Architecture* architecture = nullptr;
  const ModelTensors* tensors = nullptr;
  Engine* engine = nullptr;
  InferenceSession* session = nullptr;
  Trace* trace = nullptr;
  // Told of requests that the services turn away before the session sees them.
  SessionEvents* events = &SessionEvents::Nobody();
  // Null if the vocabulary is of a kind that is not supported; then `tokenizer_error` says why.
  const Tokenizer* tokenizer = nullptr;
  absl::Status tokenizer_error;

  int context_tokens = 0;
  std::string activations;                   // "float32" or "int8"
  std::map<std::string, std::string> flags;  // as GetConfig shows them
  std::string simd_target;                   // that the CPU kernels dispatch to
};

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_WORKER_H_
