// Chooses the experts of each token, on the GPU: routing.h says how.
#ifndef KERNELS_MOE_ROUTER_CUDA_H_
#define KERNELS_MOE_ROUTER_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/moe/routing.h"

namespace gguf_offload::cuda {

// The experts that one launch can choose among.
inline constexpr int kMaxExperts = 4096;

// What was chosen, in device memory. The pair of row r and its i-th best expert is number
// r * used + i.
struct ChosenExperts {
  int32_t* experts = nullptr;  // (rows, used), best first; -1: a row without a token
  float* weights = nullptr;    // (rows, used)
  int rows = 0;
  int used = 0;

  int pairs() const { return rows * used; }
};

// What a choice goes by, in device memory. Positions, like the bias, must not be what a kernel of
// the same step writes (kernels/ops/dependent_launch.cuh).
struct RouterScores {
  const float* logits = nullptr;  // (rows, rule.experts), rows logits_stride apart
  int64_t logits_stride = 0;
  const float* selection_bias = nullptr;  // (rule.experts) or null
  const int32_t* positions = nullptr;     // (rows) or null: all rows have a token
  RoutingRule rule;
};

// Fills `chosen`, whose rows and `used` say how many; used == rule.used. NaN counts as the smallest
// value of all in the choice, and stays NaN as a weight. A row's choice does not depend on the
// others. Rows at negative positions get no experts.
void ChooseExperts(const RouterScores& scores, const ChosenExperts& chosen, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_ROUTER_CUDA_H_
