#include "kernels/moe/expert_feed_forward.h"

#include <cstring>

#include "kernels/ops/activation.h"
#include "kernels/ops/row_chunks.h"
#include "kernels/ops/vector.h"
#include "kernels/quant/format.h"

namespace gguf_offload {

MatMulOutput ExpertMatrices::ProductOf(int expert, float* y, int64_t y_stride) const {
  MatMulOutput product = {.weight = first, .bias = nullptr, .y = y, .y_stride = y_stride};
  if (each != nullptr) {
    product.weight.data = each[expert];
  } else {
    const int64_t row_bytes = quant::RowBytes(quant::FormatOf(first.type), first.cols);
    product.weight.data += expert * (stride != 0 ? stride : first.rows * row_bytes);
  }
  if (bias != nullptr) product.bias = bias + expert * first.rows;
  if (scale != nullptr) product.scale = scale + expert;
  return product;
}

void ExpertFeedForward::SortByExpert(const ChosenExperts& chosen, int experts) {
  const int slots = chosen.n * chosen.used;
  next_slot_.assign(experts, 0);
  for (int i = 0; i < slots; ++i) ++next_slot_[chosen.experts[i]];
  groups_.clear();
  int first = 0;
  for (int expert = 0; expert < experts; ++expert) {
    const int count = next_slot_[expert];
    if (count > 0) groups_.push_back({expert, first, count});
    next_slot_[expert] = first;
    first += count;
  }
  slot_of_.resize(slots);
  token_of_.resize(slots);
  for (int i = 0; i < slots; ++i) {
    slot_of_[i] = next_slot_[chosen.experts[i]]++;
    token_of_[slot_of_[i]] = i / chosen.used;
  }
}

void ExpertFeedForward::Gather(const float* x, size_t x_stride, size_t dim) {
  input_.Reserve(token_of_.size() * dim);
  ForEachRowChunk(token_of_.size(), dim, pool_, [&](size_t begin, size_t end) {
    for (size_t slot = begin; slot < end; ++slot) {
      std::memcpy(input_.data() + slot * dim, x + token_of_[slot] * x_stride, dim * sizeof(float));
    }
  });
}

void ExpertFeedForward::GateAndUp(ActivationType activations, const Experts& experts,
                                  const float* x) {
  const int64_t dim = experts.gate.first.cols, width = experts.gate.first.rows;
  gate_.Reserve(token_of_.size() * width);
  up_.Reserve(token_of_.size() * width);
  products_.clear();
  for (const Group& group : groups_) {
    const int64_t offset = group.first * width;
    products_.push_back(experts.gate.ProductOf(group.expert, gate_.data() + offset, width));
    products_.push_back(experts.up.ProductOf(group.expert, up_.data() + offset, width));
  }
  inputs_.clear();
  for (size_t i = 0; i < groups_.size(); ++i) {
    // All slots of a single token have the same input, which is not copied.
    const float* rows = x != nullptr ? x : input_.data() + groups_[i].first * dim;
    inputs_.push_back({rows, dim, groups_[i].count, {&products_[2 * i], 2}});
  }
  matmul_.Run(activations, inputs_);
  switch (experts.activation) {
    case ExpertActivation::kSwiGlu:
      return SwiGlu(gate_.data(), width, up_.data(), width, token_of_.size(), width, gate_.data(),
                    width, pool_);
    case ExpertActivation::kClampedSwiGlu:
      return ClampedSwiGlu(gate_.data(), width, up_.data(), width, kClampedSwiGluAlpha,
                           kClampedSwiGluLimit, token_of_.size(), width, gate_.data(), width,
                           pool_);
    case ExpertActivation::kSilu:
      return Silu(gate_.data(), width, token_of_.size(), width, gate_.data(), width, pool_);
  }
}

void ExpertFeedForward::Down(ActivationType activations, const Experts& experts) {
  const int64_t dim = experts.down.first.rows, width = experts.down.first.cols;
  output_.Reserve(token_of_.size() * dim);
  products_.clear();
  for (const Group& group : groups_) {
    products_.push_back(
        experts.down.ProductOf(group.expert, output_.data() + group.first * dim, dim));
  }
  inputs_.clear();
  for (size_t i = 0; i < groups_.size(); ++i) {
    const float* rows = gate_.data() + groups_[i].first * width;
    inputs_.push_back({rows, width, groups_[i].count, {&products_[i], 1}});
  }
  matmul_.Run(activations, inputs_);
}

void ExpertFeedForward::Combine(const ChosenExperts& chosen, size_t dim, float* out,
                                size_t out_stride) {
  ForEachRowChunk(chosen.n, dim * chosen.used, pool_, [&](size_t begin, size_t end) {
    for (size_t token = begin; token < end; ++token) {
      const int* slots = slot_of_.data() + token * chosen.used;
      const float* weights = chosen.weights.data() + token * chosen.used;
      float* sum = output_.data() + slots[0] * dim;
      Scale(sum, weights[0], dim, sum);
      for (int i = 1; i < chosen.used; ++i) {
        AddScaled(output_.data() + slots[i] * dim, weights[i], dim, sum);
      }
      float* row = out + token * out_stride;
      Add(row, sum, dim, row);
    }
  });
}

void ExpertFeedForward::AddTo(float* out, size_t out_stride, const float* x, size_t x_stride,
                              ActivationType activations, const ChosenExperts& chosen,
                              const Experts& experts) {
  if (chosen.n == 0) return;
  const size_t dim = experts.down.first.rows;
  SortByExpert(chosen, experts.count);
  if (chosen.n > 1) Gather(x, x_stride, dim);
  GateAndUp(activations, experts, chosen.n > 1 ? nullptr : x);
  Down(activations, experts);
  Combine(chosen, dim, out, out_stride);
}

}  // namespace gguf_offload
