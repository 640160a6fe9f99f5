// One step of a model: tokens in, logits out.
#ifndef COMPUTED_SESSION_FORWARD_PASS_H_
#define COMPUTED_SESSION_FORWARD_PASS_H_

#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "computed/model/architecture.h"
#include "computed/prefetch/weight_loader.h"
#include "computed/runtime/backend.h"
#include "computed/runtime/trace.h"

namespace gguf_offload {

// Ties an architecture, a backend and the weights together. All memory is reserved by Create. Not
// thread safe.
class ForwardPass {
 public:
  // The head runs on this many rows at a time: a vocabulary is large, a prompt's logits would be
  // gigabytes.
  static constexpr int kHeadRows = 32;

  // Called for each of the batch's logit rows, in order, with the row's index in logit_rows and its
  // logits (vocabulary), valid during the call; the sink may overwrite them.
  using LogitsSink = std::function<void(int index, std::span<float> logits)>;

  // Steps of up to `max_rows` tokens. `deadline` is how long to wait for the input tensors. The
  // arguments must outlive the result; `trace` may be null.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(Architecture& architecture,
                                                             Backend& backend, WeightLoader& loader,
                                                             int max_rows, absl::Time deadline,
                                                             Trace* trace);

  // Runs the step. On an error (weights that cannot be had until `deadline`) the KV cache of the
  // batch's rows is undefined and not all rows have had their logits.
  absl::Status Run(const StepBatch& batch, absl::Time deadline, const LogitsSink& sink);

 private:
  ForwardPass(Architecture& architecture, Backend& backend, WeightLoader& loader, Trace* trace)
      : architecture_(architecture), backend_(backend), loader_(loader), trace_(trace) {}
  absl::Status Allocate(int max_rows);
  StepActivations Activations(int rows) const;
  absl::StatusOr<const LayerWeights*> Acquire(int group, absl::Time deadline);
  absl::Status RunHead(const StepBatch& batch, const StepActivations& step, absl::Time deadline,
                       const LogitsSink& sink);

  Architecture& architecture_;
  Backend& backend_;
  WeightLoader& loader_;
  Trace* const trace_;
  StepActivations activations_;  // of max_rows
  Matrix head_input_;            // (kHeadRows, embedding)
  Matrix logits_;                // (kHeadRows, vocabulary)
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_FORWARD_PASS_H_
