// What the parts of the experts' products pass on: expert_product_cuda.cc to the sources with the
// kernels.
#ifndef KERNELS_MOE_EXPERT_LAUNCH_H_
#define KERNELS_MOE_EXPERT_LAUNCH_H_

#include "kernels/moe/expert_product_cuda.h"

namespace gguf_offload::cuda {

// Grid: (count * row_blocks, tiles).
struct ExpertMatVecLaunch {
  ExpertProducts products;
  const int32_t* experts = nullptr;  // (pairs)
  ExpertOrder order;                 // tiles null: tile p is pair p
  int row_blocks = 0;                // of each matrix
  int split = 1;                     // warps that share the columns of weights: 1, 2 or 4
  int64_t matrix_bytes = 0;
};

// Defined for all block formats in expert_matvec_*.cu.
template <quant::TensorType kType>
void LaunchExpertMatVec(const ExpertMatVecLaunch& launch, int tiles, const QuantizedRows& x,
                        cudaStream_t stream);

inline constexpr int kExpertMatMulRows = 128;  // of weights, a block

// Grid: (count * row_blocks, tiles).
struct ExpertMatMulLaunch {
  ExpertProducts products;
  ExpertOrder order;
  const __half* x = nullptr;         // (rows, x_columns)
  const float* row_scale = nullptr;  // (rows)
  int64_t x_columns = 0;             // a multiple of 8
  int row_blocks = 0;                // of each matrix
  int64_t row_bytes = 0;
};

// Defined for all block formats and, with kPlain, for F32, F16 and BF16 in expert_matmul_*.cu.
template <quant::TensorType kType, bool kPlain>
void LaunchExpertMatMul(const ExpertMatMulLaunch& launch, int tiles, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_LAUNCH_H_
