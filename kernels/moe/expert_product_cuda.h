// Products of experts' matrices with the activations of the tokens that chose them, on the GPU.
//
// The unit is the pair of a row and an expert chosen for it (router_cuda.h): y[pair][r] = sum over
// c of weight[expert of the pair][r][c] * x[row of the pair][c], plus bias[expert][r]. Results of a
// pair do not depend on the others.
#ifndef KERNELS_MOE_EXPERT_PRODUCT_CUDA_H_
#define KERNELS_MOE_EXPERT_PRODUCT_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/moe/expert_matrices_cuda.h"
#include "kernels/moe/expert_order_cuda.h"

namespace gguf_offload::cuda {

// What AddWeightedExperts does for a single row (expert_sum_cuda.h), with the products of all its
// pairs but the last one in y.
struct ExpertSum {
  float* out = nullptr;
  const float* y = nullptr;  // rows y_stride apart
  int64_t y_stride = 0;
  ChosenExperts chosen;
  uint32_t* uses = nullptr;  // null: not counted
  // Which elements are made.
  int64_t first_row = 0;
  int64_t end_row = 0;
};

// Which products. All pointers are device memory.
struct ExpertProducts {
  // One or two matrices of each expert with the same rows, columns and type.
  ExpertMatrices matrices[2];
  float* y[2] = {};      // (pairs, rows), rows y_stride apart
  int64_t y_stride = 0;  // in floats
  int count = 1;
  // Row of x that pair p is multiplied with: p / pairs_per_row.
  int pairs_per_row = 1;
  // If sum.out is not null, the only pair is the last one of this sum's row, and its product is
  // added to the others' instead of being stored. For MultiplyExpertsInt8 without an order.
  ExpertSum sum;
};

// The most pairs of a tile.
inline constexpr int kExpertMatVecPairs = 8;
inline constexpr int kExpertMatMulPairs = 64;

// For few pairs an expert: blocks as they are times activations in 8 bits. Block formats only.
// With tiles of at most kExpertMatVecPairs, or, without an order (`order.tiles` null), one pair
// after the other.
void MultiplyExpertsInt8(const ExpertProducts& products, const QuantizedRows& x,
                         const ChosenExperts& chosen, const ExpertOrder& order, int tiles,
                         cudaStream_t stream);

// For many: blocks, or plain numbers, expanded to half precision on the way to tensor cores. Tiles
// of at most kExpertMatMulPairs.
void MultiplyExpertsHalf(const ExpertProducts& products,
                         const __half* x,         // (rows, PadHalfColumns(cols)), 16-byte aligned
                         const float* row_scale,  // (rows) that x is to be multiplied with
                         const ExpertOrder& order, int tiles, cudaStream_t stream);

// Whether experts of this type can be multiplied: in 8 bits; in half precision.
bool CanMultiplyExpertsInt8(quant::TensorType type);
bool CanMultiplyExpertsHalf(quant::TensorType type);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_PRODUCT_CUDA_H_
