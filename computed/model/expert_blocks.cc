#include "computed/model/expert_blocks.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "computed/model/read_or_return.h"

namespace gguf_offload {
namespace {

constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxWidth = 1 << 20;

// The values of expert_gating_func in files; 0 stands for the architecture's own.
absl::StatusOr<ExpertGating> GatingFromFile(int64_t number, ExpertGating fallback) {
  switch (number) {
    case 0:
      return fallback;
    case 1:
      return ExpertGating::kSoftmax;
    case 2:
      return ExpertGating::kSigmoid;
    case 3:
      return ExpertGating::kSoftmaxOfChosen;
    default:
      return absl::UnimplementedError(
          absl::StrCat("expert_gating_func ", number, " is not supported (1 to 3 are)"));
  }
}

absl::StatusOr<RoutingRule> ReadRouting(const Metadata& metadata, const ExpertTraits& traits) {
  RoutingRule rule;
  READ_OR_RETURN(rule.experts, metadata.Integer("expert_count", 1, kMaxExperts));
  READ_OR_RETURN(rule.used, metadata.Integer("expert_used_count", 1, rule.experts));
  int64_t gating = 0;
  if (traits.gating_from_file) {
    READ_OR_RETURN(gating, metadata.IntegerOr("expert_gating_func", 0, 0, 255));
  }
  READ_OR_RETURN(rule.gating, GatingFromFile(gating, traits.gating));
  rule.normalize = traits.weights_norm == WeightsNorm::kAlways;
  if (traits.weights_norm == WeightsNorm::kFromFile) {
    READ_OR_RETURN(rule.normalize, metadata.BooleanOr("expert_weights_norm", false));
  }
  READ_OR_RETURN(rule.scale, metadata.NumberOr("expert_weights_scale", 1.0, 0.0, 1e6));
  if (rule.scale == 0.0f) rule.scale = 1.0f;  // how some files say that there is none

  READ_OR_RETURN(rule.groups, metadata.IntegerOr("expert_group_count", 1, 0, rule.experts));
  if (rule.groups == 0) rule.groups = 1;
  if (rule.experts % rule.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("expert_group_count ", rule.groups,
                                                   " does not divide ", rule.experts, " experts"));
  }
  rule.used_groups = rule.groups;
  if (rule.groups > 1) {
    READ_OR_RETURN(rule.used_groups,
                   metadata.IntegerOr("expert_group_used_count", rule.groups, 1, rule.groups));
  }
  const int candidates = rule.experts / rule.groups * rule.used_groups;
  if (rule.used > candidates) {
    return absl::InvalidArgumentError(absl::StrCat("expert_used_count ", rule.used,
                                                   " is more than the ", candidates,
                                                   " experts of expert_group_used_count groups"));
  }
  return rule;
}

// Whether the file has the tensor in any layer.
bool HasTensor(const v1::Manifest& manifest, TensorId id) {
  const std::string name = absl::StrCat(".", TensorName(id, /*layer=*/-1));
  return std::any_of(
      manifest.tensors().begin(), manifest.tensors().end(),
      [&](const v1::TensorInfo& tensor) { return absl::EndsWith(tensor.name(), name); });
}

// The same status with the model's name in front, where it is not there yet.
absl::Status Named(const v1::Manifest& manifest, const absl::Status& status) {
  const std::string prefix = absl::StrCat("model '", manifest.name(), "': ");
  if (status.ok() || status.message().rfind(prefix, 0) == 0) return status;
  return absl::Status(status.code(), absl::StrCat(prefix, status.message()));
}

// residual += gate? * W_down (silu(W_gate h) * W_up h)
void AddSharedExpert(Backend& backend, const TransformerShape& shape, const ExpertTraits& traits,
                     const LayerWeights& weights, const StepActivations& step) {
  const Matrix gate = step.gate.Columns(0, shape.experts.shared_feed_forward);
  const Matrix up = step.up.Columns(0, shape.experts.shared_feed_forward);
  if (traits.shared == SharedExperts::kGated) {
    backend.Project(step.hidden, {{{weights[kSharedExpertRouter], step.shared_gate}}});
  }
  backend.ProjectGated(step.hidden, {weights[kSharedExpertGate], gate},
                       {weights[kSharedExpertUp], up});
  backend.Project(gate, {{{weights[kSharedExpertDown], step.shared}}});
  if (traits.shared == SharedExperts::kGated) {
    backend.AddGated(step.residual, step.shared, step.shared_gate);
  } else {
    backend.Add(step.residual, step.shared);
  }
}

}  // namespace

absl::Status ReadExpertShape(const v1::Manifest& manifest, const ExpertTraits& traits,
                             TransformerShape& shape) {
  const Metadata metadata(manifest);
  ExpertShape& experts = shape.experts;
  absl::StatusOr<RoutingRule> routing = ReadRouting(metadata, traits);
  if (!routing.ok()) return Named(manifest, routing.status());
  experts.routing = *routing;
  experts.norm = traits.norm;
  READ_OR_RETURN(experts.feed_forward,
                 metadata.IntegerOr("expert_feed_forward_length", 0, 0, kMaxWidth));
  if (experts.feed_forward == 0) {
    experts.feed_forward = traits.expert_as_wide_as_dense
                               ? shape.feed_forward
                               : shape.feed_forward / experts.routing.used;
  }
  if (experts.feed_forward == 0) {
    return Named(manifest, absl::InvalidArgumentError(
                               "neither expert_feed_forward_length nor feed_forward_length says "
                               "how wide an expert is"));
  }
  experts.gated = !traits.optional_gate || HasTensor(manifest, kExpertGate) ||
                  HasTensor(manifest, kExpertGateUp);
  READ_OR_RETURN(experts.dense_layers,
                 metadata.IntegerOr("leading_dense_block_count", 0, 0, shape.layers));
  if (traits.shared == SharedExperts::kNone) return absl::OkStatus();

  int64_t shared = 0;
  READ_OR_RETURN(shared, metadata.IntegerOr("expert_shared_count", 0, 0, kMaxExperts));
  READ_OR_RETURN(experts.shared_feed_forward,
                 metadata.IntegerOr("expert_shared_feed_forward_length", 0, 0, kMaxWidth));
  if (experts.shared_feed_forward == 0) {
    experts.shared_feed_forward = shared * experts.feed_forward;
  }
  if (experts.shared_feed_forward == 0 && traits.shared_as_wide_as_dense &&
      HasTensor(manifest, kSharedExpertGate)) {
    experts.shared_feed_forward = shape.feed_forward;
  }
  return absl::OkStatus();
}

void AppendExpertTensors(const TransformerShape& shape, const ExpertTraits& traits,
                         std::vector<TensorSpec>& tensors) {
  const int64_t count = shape.experts.routing.experts;
  const int64_t width = shape.experts.feed_forward;
  const int64_t shared = shape.experts.shared_feed_forward;
  const auto part_of_gate_up = [&](TensorId id, int64_t first_row) {
    return TensorSpec{.id = id,
                      .dimensions = {shape.embedding, width, count},
                      .merged = {{kExpertGateUp, first_row, 2 * width}}};
  };
  tensors.push_back({traits.norm, {shape.embedding}});
  tensors.push_back({kRouter, {shape.embedding, count}});
  tensors.push_back(part_of_gate_up(kExpertGate, 0));
  // Experts without gates have their only inner product in the gate's place, too.
  if (!shape.experts.gated) tensors.back().merged = {{kExpertUp, 0, width}};
  tensors.push_back(part_of_gate_up(kExpertUp, width));
  tensors.push_back({kExpertDown, {width, shape.embedding, count}});
  if (traits.selection_bias) tensors.push_back({kExpertSelectionBias, {count}, /*optional=*/true});
  if (shared == 0) return;
  if (traits.shared == SharedExperts::kGated) {
    tensors.push_back({kSharedExpertRouter, {shape.embedding}});
  }
  tensors.push_back({kSharedExpertGate, {shape.embedding, shared}});
  tensors.push_back({kSharedExpertUp, {shape.embedding, shared}});
  tensors.push_back({kSharedExpertDown, {shared, shape.embedding}});
}

void ExpertFeedForward(Backend& backend, const TransformerShape& shape, const ExpertTraits& traits,
                       const LayerWeights& weights, const StepActivations& step) {
  backend.AddRmsNorm(step.residual, step.hidden, weights[traits.norm], shape.norm_epsilon,
                     step.hidden);
  backend.Project(step.hidden, {{{weights[kRouter], step.router}}});
  backend.ChooseExperts(step.router, weights[kExpertSelectionBias], shape.experts.routing);
  const ExpertBank bank = {
      .gate = weights[kExpertGate],
      .up = weights[kExpertUp],
      .down = weights[kExpertDown],
      .activation = shape.experts.gated ? traits.activation : ExpertActivation::kSilu};
  backend.FetchExperts(bank);
  if (shape.experts.shared_feed_forward > 0) {
    AddSharedExpert(backend, shape, traits, weights, step);
  }
  backend.AddExperts(step.residual, step.hidden, bank);
}

void ReadAfterExperts(Backend& backend, const LayerWeights& weights, const LayerWeights& next) {
  if (!weights[kRouter]) return;
  for (const TensorId id :
       {kAttentionQ, kAttentionK, kAttentionV, kAttentionQA, kAttentionKvA, kAttentionQB}) {
    if (next[id]) backend.ReadAfterExperts(next[id]);
  }
}

void PredictExperts(Backend& backend, const TransformerShape& shape, const LayerWeights& weights) {
  if (!weights[kRouter]) return;
  backend.PredictExperts({.norm = weights[shape.experts.norm],
                          .epsilon = shape.norm_epsilon,
                          .router = weights[kRouter],
                          .selection_bias = weights[kExpertSelectionBias],
                          .rule = shape.experts.routing,
                          .gate = weights[kExpertGate],
                          .up = weights[kExpertUp],
                          .down = weights[kExpertDown]});
}

}  // namespace gguf_offload
