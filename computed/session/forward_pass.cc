#include "computed/session/forward_pass.h"

#include <algorithm>

#include "computed/model/expert_blocks.h"

namespace gguf_offload {
namespace {

struct Wanted {
  Matrix* matrix;
  int rows;
  int64_t columns;
};

std::vector<Wanted> WantedMatrices(const TransformerShape& shape, const ForwardPassOptions& options,
                                   StepActivations& step, Matrix& head_input, Matrix& logits) {
  return {
      {&step.residual, options.max_rows, shape.embedding},
      {&step.hidden, options.max_rows, shape.embedding},
      {&step.query, options.max_rows, shape.heads * shape.key_dim},
      {&step.key, options.max_rows, shape.kv_heads * shape.key_dim},
      {&step.value, options.max_rows,
       shape.has_latent_attention() ? 0 : shape.kv_heads * shape.value_dim},
      {&step.attention, options.max_rows,
       std::max(shape.heads * shape.value_dim,
                shape.experts.shared_feed_forward > 0 ? shape.embedding : 0)},
      {&step.gate, options.max_rows, shape.gated_width()},
      {&step.up, options.max_rows, shape.gated_width()},
      {&step.query_latent, options.max_rows, shape.latent.query_rank},
      {&step.head_query, options.max_rows,
       shape.has_latent_attention() ? shape.heads * shape.latent.key_dim() : 0},
      {&step.head_value, options.max_rows,
       shape.has_latent_attention() ? shape.heads * shape.latent.value_dim : 0},
      {&step.router, options.max_rows, shape.experts.routing.experts},
      {&step.shared_gate, options.max_rows, shape.experts.shared_feed_forward > 0 ? 1 : 0},
      {&head_input, options.max_logit_rows, shape.embedding},
      {&logits, options.max_logit_rows, shape.vocabulary},
  };
}

}  // namespace

std::vector<std::pair<int, int64_t>> ForwardPass::ActivationShapes(
    const TransformerShape& shape, const ForwardPassOptions& options) {
  StepActivations step;
  Matrix head_input, logits;
  std::vector<std::pair<int, int64_t>> shapes;
  for (const Wanted& wanted : WantedMatrices(shape, options, step, head_input, logits)) {
    if (wanted.columns > 0) shapes.emplace_back(wanted.rows, wanted.columns);
  }
  return shapes;
}

uint64_t ForwardPass::ActivationBytes(const TransformerShape& shape,
                                      const ForwardPassOptions& options) {
  uint64_t bytes = 0;
  for (const auto& [rows, columns] : ActivationShapes(shape, options)) {
    bytes += rows * columns * sizeof(float);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(Architecture& architecture,
                                                                 Backend& backend,
                                                                 WeightLoader& loader,
                                                                 const ForwardPassOptions& options,
                                                                 Trace* trace) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(architecture, backend, loader, trace));
  if (absl::Status status = pass->Allocate(options); !status.ok()) return status;
  absl::Status status = architecture.Prepare(loader.HostVectors(/*group=*/0));
  if (!status.ok()) return status;
  for (const RopeFrequencies* frequencies : architecture.Rotations()) {
    if (absl::Status status = backend.AddRope(*frequencies); !status.ok()) return status;
  }
  for (bool large : {false, true}) pass->PlanStretches(large);
  return pass;
}

absl::Status ForwardPass::Allocate(const ForwardPassOptions& options) {
  for (const Wanted& wanted :
       WantedMatrices(architecture_.shape(), options, activations_, head_input_, logits_)) {
    if (wanted.columns == 0) continue;  // this model has none
    absl::StatusOr<Matrix> allocated =
        backend_.AllocateMatrix(wanted.rows, wanted.columns, "activations");
    if (!allocated.ok()) return allocated.status();
    *wanted.matrix = *allocated;
  }
  const TransformerShape& shape = architecture_.shape();
  const Matrix attention = activations_.attention;
  activations_.attention = attention.Columns(0, shape.heads * shape.value_dim);
  if (shape.experts.shared_feed_forward > 0) {
    activations_.shared = attention.Columns(0, shape.embedding);
  }
  return absl::OkStatus();
}

void ForwardPass::PlanStretches(bool large) {
  const std::vector<WeightPart>& parts = loader_.parts();
  weights_.resize(parts.size());
  const auto standalone = [&](int part) {
    return large ? parts[part].standalone_if_large : parts[part].standalone;
  };
  std::vector<Stretch>& stretches = stretches_[large];
  const int first_index = large ? static_cast<int>(stretches_[false].size()) : 0;
  for (int part = 0; part < static_cast<int>(parts.size()); ++part) {
    const bool begins = part == 0 || standalone(part) || standalone(part - 1);
    if (begins) stretches.push_back({part, part, first_index + static_cast<int>(stretches.size())});
    stretches.back().end = part + 1;
  }
}

StepActivations ForwardPass::Activations(int rows) const {
  StepActivations step = activations_;
  for (Matrix* matrix :
       {&step.residual, &step.hidden, &step.query, &step.key, &step.value, &step.attention,
        &step.gate, &step.up, &step.query_latent, &step.head_query, &step.head_value, &step.router,
        &step.shared_gate, &step.shared}) {
    *matrix = matrix->Rows(rows);
  }
  return step;
}

absl::Status ForwardPass::Run(const StepBatch& batch, absl::Time deadline, const LogitsSink& sink) {
  const StepActivations step = Activations(batch.rows());
  const bool with_head = !batch.logit_rows.empty();
  backend_.BeginStep(batch);
  loader_.BeginStep(batch.rows(), with_head, deadline);
  for (Stretch stretch : stretches_[loader_.IsLarge(batch.rows())]) {
    // A step without logits ends before the head.
    if (!with_head) stretch.end = std::min(stretch.end, architecture_.shape().layers + 1);
    if (stretch.first >= stretch.end) break;
    for (int part = stretch.first; part < stretch.end; ++part) {
      const Trace::Span span(trace_, "weights", "wait", part);
      absl::StatusOr<const LayerWeights*> weights = loader_.Acquire(part, deadline);
      if (!weights.ok()) {
        // What has been called reads memory that the next step will change.
        const absl::Status unused = backend_.Synchronize();
        return weights.status();
      }
      weights_[part] = *weights;
    }
    backend_.Run(stretch.index, [&] {
      for (int part = stretch.first; part < stretch.end; ++part) {
        // The next layer's weights are at hand where layers run in one stretch.
        const int next = part + 1;
        if (part > 0 && next < stretch.end && next <= architecture_.shape().layers) {
          PredictExperts(backend_, architecture_.shape(), *weights_[next]);
          ReadAfterExperts(backend_, *weights_[part], *weights_[next]);
        }
        RunPart(part, *weights_[part], batch, step);
      }
    });
    for (int part = stretch.first; part < stretch.end; ++part) loader_.Release(part);
  }
  const int logit_rows = static_cast<int>(batch.logit_rows.size());
  if (with_head) backend_.FetchLogits(logits_.Rows(logit_rows));
  {
    // Where operations are done later, the host waits for them here and nowhere else.
    const Trace::Span span(backend_.asynchronous() ? trace_ : nullptr, "host", "wait for the GPU");
    if (absl::Status status = backend_.Synchronize(); !status.ok()) return status;
  }
  for (int i = 0; i < logit_rows; ++i) {
    sink(i, {.largest = backend_.LargestOf(i),
             .values = batch.logit_values[i] ? backend_.HostRow(i) : std::span<float>()});
  }
  return absl::OkStatus();
}

void ForwardPass::RunPart(int part, const LayerWeights& weights, const StepBatch& batch,
                          const StepActivations& step) {
  const int layers = architecture_.shape().layers;
  // Where operations are done later, this is when they were called.
  const char* const lane = backend_.asynchronous() ? "launch" : "compute";
  if (part == 0) {
    backend_.Embed(weights[kTokenEmbedding], step.residual);
  } else if (part <= layers) {
    const Trace::Span span(trace_, lane, "layer", part - 1);
    architecture_.RunLayer(backend_, part - 1, weights, step);
  } else {
    const Trace::Span span(trace_, lane, "head", part - layers - 1);
    RunHeadPart(part, weights, batch, step);
  }
}

void ForwardPass::RunHeadPart(int part, const LayerWeights& weights, const StepBatch& batch,
                              const StepActivations& step) {
  const TransformerShape& shape = architecture_.shape();
  const int rows = static_cast<int>(batch.logit_rows.size());
  // Where all rows' logits are wanted, nobody needs the residual any more.
  const bool all_rows = rows == batch.rows();
  const Matrix input = all_rows ? step.residual : head_input_.Rows(rows);
  if (part == shape.layers + 1) {
    if (!all_rows) backend_.GatherLogitRows(step.residual, input);
    backend_.RmsNorm(input, weights[kOutputNorm], shape.norm_epsilon, input);
  }
  // The part's rows of the head are columns of the logits.
  const Weight& output = weights[kOutput];
  Matrix logits = logits_.Rows(rows);
  logits.data += loader_.parts()[part].first_row;
  logits.columns = output.rows;
  backend_.Project(input, {{{output, logits}}});
  if (part + 1 == static_cast<int>(loader_.parts().size())) backend_.ArgMax(logits_.Rows(rows));
}

}  // namespace gguf_offload
