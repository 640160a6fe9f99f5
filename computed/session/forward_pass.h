// One step of a model: tokens in, logits out.
#ifndef COMPUTED_SESSION_FORWARD_PASS_H_
#define COMPUTED_SESSION_FORWARD_PASS_H_

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "computed/model/architecture.h"
#include "computed/prefetch/weight_loader.h"
#include "computed/runtime/backend.h"
#include "computed/runtime/trace.h"

namespace gguf_offload {

// What a step says about one row whose logits were wanted.
struct RowLogits {
  // The token with the largest logit, the first of equals; -1 if no token can be chosen because one
  // logit is NaN or plus infinity, or all are minus infinity.
  int32_t largest = 0;
  std::span<float> values;  // (vocabulary) where they were wanted, else empty; may be overwritten
};

struct ForwardPassOptions {
  int max_rows = 0;        // most rows of a step
  int max_logit_rows = 0;  // most of them whose logits are wanted
};

// Ties an architecture, a backend and the weights together. All memory is reserved by Create. Not
// thread safe.
class ForwardPass {
 public:
  // Called for each of the batch's logit rows, in order, with the row's index in logit_rows; the
  // row is valid during the call.
  using LogitsSink = std::function<void(int index, const RowLogits& row)>;

  // `deadline` is how long to wait for the input tensors. The arguments must outlive the result;
  // `trace` may be null.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(Architecture& architecture,
                                                             Backend& backend, WeightLoader& loader,
                                                             const ForwardPassOptions& options,
                                                             Trace* trace);

  // (rows, columns) of the matrices that Create allocates.
  static std::vector<std::pair<int, int64_t>> ActivationShapes(const TransformerShape& shape,
                                                               const ForwardPassOptions& options);
  // Their bytes, if a backend's rows are not padded.
  static uint64_t ActivationBytes(const TransformerShape& shape, const ForwardPassOptions& options);

  // Runs the step. On an error (weights that cannot be had until `deadline`) the KV cache of the
  // batch's rows is undefined and the sink has not been called.
  absl::Status Run(const StepBatch& batch, absl::Time deadline, const LogitsSink& sink);

 private:
  ForwardPass(Architecture& architecture, Backend& backend, WeightLoader& loader, Trace* trace)
      : architecture_(architecture), backend_(backend), loader_(loader), trace_(trace) {}
  absl::Status Allocate(const ForwardPassOptions& options);
  StepActivations Activations(int rows) const;
  void PlanStretches(bool large);
  void RunPart(int part, const LayerWeights& weights, const StepBatch& batch,
               const StepActivations& step);
  void RunHeadPart(int part, const LayerWeights& weights, const StepBatch& batch,
                   const StepActivations& step);

  // Consecutive parts whose operations a backend may record as one.
  struct Stretch {
    int first = 0;
    int end = 0;
    int index = 0;  // among all, those of large steps included
  };

  Architecture& architecture_;
  Backend& backend_;
  WeightLoader& loader_;
  Trace* const trace_;
  std::vector<Stretch> stretches_[2];         // of steps that are not large, and that are
  std::vector<const LayerWeights*> weights_;  // (parts) of the stretch in progress
  StepActivations activations_;               // of max_rows
  Matrix head_input_;                         // (max_logit_rows, embedding)
  Matrix logits_;                             // (max_logit_rows, vocabulary)
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_FORWARD_PASS_H_
