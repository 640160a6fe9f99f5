#include "computed/session/forward_pass.h"

#include <algorithm>
#include <vector>


namespace gguf_offload {
absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(Architecture& architecture,
                                                                 Backend& backend,
                                                                 WeightLoader& loader, int max_rows,
                                                                 absl::Time deadline,
                                                                 Trace* trace) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(architecture, backend, loader, trace));
  if (absl::Status status = pass->Allocate(max_rows); !status.ok()) return status;
  absl::StatusOr<const LayerWeights*> input = loader.Acquire(0, deadline);
  if (!input.ok()) return input.status();
  if (absl::Status status = architecture.Prepare(**input); !status.ok()) return status;
  loader.Release(0);
  return pass;
}

absl::Status ForwardPass::Allocate(int max_rows) {
  const TransformerShape& shape = architecture_.shape();
  struct {
    Matrix& matrix;
    int rows;
    int64_t columns;
  } const wanted[] = {
      {activations_.residual, max_rows, shape.embedding},
      {activations_.hidden, max_rows, shape.embedding},
      {activations_.query, max_rows, shape.heads * shape.key_dim},
      {activations_.key, max_rows, shape.kv_heads * shape.key_dim},
      {activations_.value, max_rows, shape.kv_heads * shape.value_dim},
      {activations_.attention, max_rows, shape.heads * shape.value_dim},
      {activations_.gate, max_rows, shape.feed_forward},
      {activations_.up, max_rows, shape.feed_forward},
      {head_input_, kHeadRows, shape.embedding},
      {logits_, kHeadRows, shape.vocabulary},
  };
  for (const auto& [matrix, rows, columns] : wanted) {
    absl::StatusOr<Matrix> allocated = backend_.AllocateMatrix(rows, columns, "activations");
    if (!allocated.ok()) return allocated.status();
    matrix = *allocated;
  }
  return absl::OkStatus();
}

StepActivations ForwardPass::Activations(int rows) const {
  StepActivations step = activations_;
  for (Matrix* matrix : {&step.residual, &step.hidden, &step.query, &step.key, &step.value,
                         &step.attention, &step.gate, &step.up}) {
    *matrix = matrix->Rows(rows);
  }
  return step;
}

absl::StatusOr<const LayerWeights*> ForwardPass::Acquire(int group, absl::Time deadline) {
  const Trace::Span span(trace_, "weights", "wait");
  return loader_.Acquire(group, deadline);
}

absl::Status ForwardPass::Run(const StepBatch& batch, absl::Time deadline, const LogitsSink& sink) {
  const StepActivations step = Activations(batch.rows());
  backend_.BeginStep(batch);

  absl::StatusOr<const LayerWeights*> input = Acquire(0, deadline);
  if (!input.ok()) return input.status();
  backend_.Embed((**input)[kTokenEmbedding], step.residual);
  loader_.Release(0);

  for (int layer = 0; layer < architecture_.shape().layers; ++layer) {
    absl::StatusOr<const LayerWeights*> weights = Acquire(layer + 1, deadline);
    if (!weights.ok()) return weights.status();
    const Trace::Span span(trace_, "compute", "layer", layer);
    architecture_.RunLayer(backend_, layer, **weights, step);
    loader_.Release(layer + 1);
  }
  if (batch.logit_rows.empty()) return backend_.Synchronize();
  return RunHead(batch, step, deadline, sink);
}

absl::Status ForwardPass::RunHead(const StepBatch& batch, const StepActivations& step,
                                  absl::Time deadline, const LogitsSink& sink) {
  const TransformerShape& shape = architecture_.shape();
  const int head_group = shape.layers + 1;
  absl::StatusOr<const LayerWeights*> head = Acquire(head_group, deadline);
  if (!head.ok()) return head.status();
  absl::StatusOr<const LayerWeights*> input = Acquire(0, deadline);
  if (!input.ok()) return input.status();
  // Without a head of its own a model uses the embedding (tied embeddings).
  const Weight& output = (**head)[kOutput] ? (**head)[kOutput] : (**input)[kTokenEmbedding];
  const Weight no_bias;

  const std::span<const int32_t> rows(batch.logit_rows);
  for (size_t first = 0; first < rows.size(); first += kHeadRows) {
    const auto chunk = rows.subspan(first, std::min<size_t>(kHeadRows, rows.size() - first));
    const int n = static_cast<int>(chunk.size());
    {
      const Trace::Span span(trace_, "compute", "head");
      backend_.GatherRows(step.residual, chunk, head_input_.Rows(n));
      backend_.RmsNorm(head_input_.Rows(n), (**head)[kOutputNorm], shape.norm_epsilon,
                       head_input_.Rows(n));
      backend_.Project(head_input_.Rows(n), {{{output, no_bias, logits_.Rows(n)}}});
      if (absl::Status status = backend_.Synchronize(); !status.ok()) return status;
    }
    for (int i = 0; i < n; ++i) {
      sink(static_cast<int>(first) + i,
           std::span(backend_.HostRow(logits_, i), static_cast<size_t>(shape.vocabulary)));
    }
  }
  loader_.Release(0);
  loader_.Release(head_group);
  return absl::OkStatus();
}

}  // namespace gguf_offload
