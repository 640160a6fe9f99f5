// What mixtures of experts ask of CpuBackend.
#include <algorithm>
#include <cmath>

#include "computed/runtime/cpu_backend.h"
#include "kernels/ops/vector.h"

namespace gguf_offload {
namespace {

// The choice of `n` tokens from token `first` on.
ChosenExperts Part(const ChosenExperts& chosen, int first, int n) {
  const size_t begin = size_t(first) * chosen.used, end = begin + size_t(n) * chosen.used;
  return {n,
          chosen.used,
          {chosen.experts.begin() + begin, chosen.experts.begin() + end},
          {chosen.weights.begin() + begin, chosen.weights.begin() + end}};
}

}  // namespace

void CpuBackend::set_expert_cache(HostExpertCache* cache) {
  expert_cache_ = cache;
  const HostExpertPlan& plan = cache->plan();
  expert_uses_ = std::make_unique<std::atomic<uint32_t>[]>(plan.layers.size() * plan.experts);
}

std::vector<uint32_t> CpuBackend::ExpertUses(int layer) const {
  const int experts = expert_cache_->plan().experts;
  std::vector<uint32_t> uses(experts);
  for (int i = 0; i < experts; ++i) {
    uses[i] = expert_uses_[int64_t{layer} * experts + i].load(std::memory_order_relaxed);
  }
  return uses;
}

void CpuBackend::CountUses(int layer, const ChosenExperts& chosen) {
  std::atomic<uint32_t>* const uses =
      expert_uses_.get() + int64_t{layer} * expert_cache_->plan().experts;
  for (int i = 0; i < chosen.n * chosen.used; ++i) {
    uses[chosen.experts[i]].fetch_add(1, std::memory_order_relaxed);
  }
}

void CpuBackend::ChooseExperts(Matrix logits, const Weight& selection_bias,
                               const RoutingRule& rule) {
  router_.Choose(logits.data, logits.stride, selection_bias ? selection_bias.floats() : nullptr,
                 rule, logits.rows);
}

absl::Status CpuBackend::FetchExperts(int layer, const ChosenExperts& chosen,
                                      ExpertFeedForward::Experts& experts) {
  wanted_.assign(chosen.experts.begin(), chosen.experts.begin() + chosen.n * chosen.used);
  std::sort(wanted_.begin(), wanted_.end());
  wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
  entries_.resize(wanted_.size());
  absl::Status status = expert_cache_->Fetch(layer, wanted_, entries_);
  if (!status.ok()) return status;
  ExpertMatrices* const banks[] = {&experts.gate, &experts.up, &experts.down};
  for (int matrix = 0; matrix < 3; ++matrix) {
    matrices_[matrix].resize(experts.count);
    for (size_t i = 0; i < wanted_.size(); ++i) {
      matrices_[matrix][wanted_[i]] =
          entries_[i] + expert_cache_->plan().OffsetOf(layer, wanted_[i], matrix);
    }
    banks[matrix]->each = matrices_[matrix].data();
  }
  return status;
}

void CpuBackend::AddExperts(Matrix residual, Matrix x, const ExpertBank& bank) {
  const auto matrices = [](const Weight& weight) {
    return ExpertMatrices{.first = {weight.type, weight.data, weight.rows, weight.columns},
                          .bias = weight.bias,
                          .stride = weight.stride(),
                          .scale = weight.scale};
  };
  ExpertFeedForward::Experts experts = {.count = static_cast<int>(bank.gate.matrices),
                                        .gate = matrices(bank.gate),
                                        .up = matrices(bank.up),
                                        .down = matrices(bank.down),
                                        .activation = bank.activation};
  const ChosenExperts& all = router_.chosen();
  const int layer = bank.gate.expert_layer;
  if (expert_cache_ != nullptr) CountUses(layer, all);
  if (!bank.gate.cached) {
    experts_.AddTo(residual.data, residual.stride, x.data, x.stride, activations_, all, experts);
    return;
  }
  // As many tokens at a time as find room for their experts. A step that has failed goes on, as
  // operations cannot say so, but fetches no more.
  const int most = expert_cache_->plan().MostTokens(layer);
  for (int first = 0; first < all.n && status_.ok();) {
    const ChosenExperts chosen = Part(all, first, std::min(most, all.n - first));
    status_ = FetchExperts(layer, chosen, experts);
    if (!status_.ok()) break;
    experts_.AddTo(residual.data + first * residual.stride, residual.stride,
                   x.data + first * x.stride, x.stride, activations_, chosen, experts);
    first += chosen.n;
  }
}

void CpuBackend::AddGated(Matrix residual, Matrix x, Matrix gate) {
  for (int row = 0; row < residual.rows; ++row) {
    const float sigmoid = 1.0f / (1.0f + std::exp(-gate.data[row * gate.stride]));
    AddScaled(x.data + row * x.stride, sigmoid, residual.columns,
              residual.data + row * residual.stride);
  }
}

}  // namespace gguf_offload
