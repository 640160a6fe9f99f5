// What mixtures of experts ask of CudaBackend.
#include <algorithm>
#include <utility>
#include <vector>

#include "computed/runtime/cuda/cuda_backend.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/moe/expert_sum_cuda.h"
#include "kernels/ops/read_ahead_cuda.h"

namespace gguf_offload {

void CudaBackend::ChooseExperts(Matrix logits, const Weight& selection_bias,
                                const RoutingRule& rule) {
  RunPending();
  chosen_.rows = Padded(logits.rows);
  pending_choice_ = {logits.data, logits.stride, selection_bias.floats(), inputs_->positions(),
                     rule};
}

void CudaBackend::FetchExperts(const ExpertBank& bank) {
  const int layer = bank.gate.expert_layer;
  if (!bank.gate.cached || chosen_.rows > expert_cache_->MostRows(layer, chosen_.used)) return;
  if (predictor_ != nullptr) predictor_->Join(stream_);
  const cuda::RouterScores* scores = nullptr;
  if (pending_choice_.has_value() &&
      cuda::CanChooseAndResolve(pending_choice_->rule, chosen_.rows)) {
    scores = &*pending_choice_;
  } else {
    RunPending();
  }
  expert_cache_->Fetch(layer, chosen_, scores, bank.gate, bank.up, bank.down, stream_);
  pending_choice_.reset();
  fetching_ = true;
}

void CudaBackend::ReadAfterExperts(const Weight& weight) {
  if (!weight || after_experts_.size() == cuda::kMostReadAhead) return;
  int64_t room = device_.cache_bytes() / 2;
  for (const cuda::ReadAhead& before : after_experts_) {
    room -= std::min(before.bytes, before.most_bytes);
  }
  if (room > 0) after_experts_.push_back({weight.data, weight.bytes(), room});
}

void CudaBackend::AddExperts(Matrix residual, Matrix x, const ExpertBank& bank) {
  RunPending();
  RunDeferredNorm();
  const std::vector<cuda::ReadAhead> ahead = std::exchange(after_experts_, {});
  const auto matrices = [](const Weight& weight) {
    return cuda::ExpertMatrices{.type = weight.type,
                                .rows = weight.rows,
                                .cols = weight.columns,
                                .bias = weight.bias,
                                .data = weight.data,
                                .stride = weight.stride(),
                                .scale = weight.scale};
  };
  const int layer = bank.gate.expert_layer;
  cuda::ExpertFeedForward::Experts experts = {.gate = matrices(bank.gate),
                                              .up = matrices(bank.up),
                                              .down = matrices(bank.down),
                                              .activation = bank.activation,
                                              .uses = expert_cache_->uses(layer)};
  cuda::QuantizedRows quantized;
  if (experts_->WantsQuantized(chosen_.rows, experts)) {
    quantized = matmul_->PrepareQuantized(chosen_.rows, x.columns);
    if (quantized_ != x.data) {
      cuda::QuantizeRows(x.data, x.stride, chosen_.rows, quantized, stream_);
      quantized_ = x.data;
    }
  }
  if (!bank.gate.cached) {
    experts_->AddTo(residual.data, residual.stride, x.data, x.stride, quantized, chosen_, experts,
                    stream_);
    return;
  }
  experts.gate = expert_cache_->InSlots(layer, 0, experts.gate);
  experts.up = expert_cache_->InSlots(layer, 1, experts.up);
  experts.down = expert_cache_->InSlots(layer, 2, experts.down);
  // As many rows at a time as find room for their experts.
  const int most = expert_cache_->MostRows(layer, chosen_.used);
  if (predictor_ != nullptr) predictor_->Join(stream_);
  for (int first = 0; first < chosen_.rows; first += most) {
    cuda::ChosenExperts chosen = chosen_;
    chosen.rows = std::min(most, chosen_.rows - first);
    chosen.experts += int64_t{first} * chosen.used;
    chosen.weights += int64_t{first} * chosen.used;
    if (!std::exchange(fetching_, false)) {
      expert_cache_->Fetch(layer, chosen, /*scores=*/nullptr, bank.gate, bank.up, bank.down,
                           stream_);
    }
    // Where not all rows find room, the next layer's won't either: no slot is free for a guess.
    if (predictor_ != nullptr && chosen.rows == chosen_.rows &&
        predictor_->Begin(layer, residual.Rows(chosen_.rows), inputs_->positions(), stream_)) {
      predictor_->Fetch(*expert_cache_, stream_);
    }
    float* const out = residual.data + first * residual.stride;
    const float* const in = x.data + first * x.stride;
    const std::vector<FetchPart> parts = expert_cache_->PartsOf(layer, chosen, bank.down);
    if (parts.size() == 1) {
      expert_cache_->Await(0, stream_);
      experts_->AddTo(out, residual.stride, in, x.stride, quantized.Rows(first), chosen, experts,
                      stream_);
    } else {
      // Of a single row.
      const bool int8 = quantized.q != nullptr;
      for (const auto& [part, first_row, end_row] : parts) {
        cuda::ChosenExperts some = chosen;
        some.used = part.end - part.first;
        some.experts += part.first;
        some.weights += part.first;
        expert_cache_->Await(part.number, stream_);
        if (part.first_matrix == 0) {
          experts_->MultiplyInner(in, x.stride, quantized.Rows(first), some, part.first, experts,
                                  stream_);
        }
        if (end_row == 0) {
          // Where all experts had to be fetched, the GPU's memory rests until the last matrix is
          // there, and has its last chance to write back what was fetched before others need it.
          if (!ahead.empty()) {
            cuda::BringAllNearer(ahead, expert_cache_->missing(), chosen.used, stream_);
          }
          continue;
        }
        if (int8 && part.first == chosen.used - 1) {
          experts_->MultiplyLastDownAndAdd(out, first_row, end_row, chosen, experts, stream_);
        } else if (end_row == bank.down.rows) {
          experts_->MultiplyDown(int8, some, part.first, experts, stream_);
        }
      }
      if (!int8) experts_->AddProducts(out, residual.stride, chosen, experts, stream_);
    }
    if (chosen.rows == chosen_.rows - first) break;
  }
}

void CudaBackend::PredictExperts(const ExpertRoute& route) {
  if (predictor_ != nullptr) predictor_->Expect(route);
}

void CudaBackend::AddGated(Matrix residual, Matrix x, Matrix gate) {
  RunPending();
  RunDeferredNorm();
  cuda::AddGated(x.data, x.stride, gate.data, gate.stride, Padded(residual.rows), residual.columns,
                 residual.data, residual.stride, stream_);
}

}  // namespace gguf_offload
