// How products of weight matrices with a few columns of activations are spread over a grid: shared
// by the kernels for quantized and for plain weights.
//
// A warp multiplies a few neighbouring rows with up to kMatVecColumns columns. Where rows are too
// few to fill a GPU with warps, 2 or 4 warps of a block share the rows' columns and add up their
// sums in a fixed order. How many follows from the matrices' shapes alone, neither from the number
// of activation columns nor from the GPU, so a result does not depend on them either.
#ifndef KERNELS_MATMUL_MATVEC_LAUNCH_CUH_
#define KERNELS_MATMUL_MATVEC_LAUNCH_CUH_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/matmul/matvec_matrix.h"

namespace gguf_offload::cuda {

inline constexpr int kMatVecWarps = 4;    // a block
inline constexpr int kMatVecRows = 2;     // a warp, unless its kernel says otherwise
inline constexpr int kMatVecColumns = 8;  // of activations, at most, a warp

// A kernel parameter.
struct MatVecLaunch {
  struct Matrix {
    MatVecMatrix matrix;
    unsigned first_block;  // of the blocks of all matrices, before `column_chunks` are counted
  };
  Matrix matrices[kMaxMatVecMatrices];
  int matrix_count;
  int split;          // warps that share the columns of weights: 1, 2 or 4
  int split_bits;     // its logarithm
  int n;              // activation columns
  int column_chunks;  // parts of up to kMatVecColumns that they are cut into
  int64_t cols;       // of the weights
};

// The logarithm of how many warps share rows of `chunks` pieces each: enough that a large GPU (132
// processors with 32 warps each, say) has work for most of them where a warp has kMatVecRows.
inline int ChooseSplitBits(int64_t rows, int64_t chunks) {
  constexpr int64_t kEnoughWarps = 3500;
  int bits = 0;
  while (1 << bits < kMatVecWarps && 2 << bits <= chunks &&
         (rows / kMatVecRows) << bits < kEnoughWarps) {
    ++bits;
  }
  return bits;
}

inline int64_t RowsOf(std::span<const MatVecMatrix> matrices) {
  int64_t rows = 0;
  for (const MatVecMatrix& matrix : matrices) rows += matrix.rows;
  return rows;
}

// Fills `launch` and returns the number of blocks. 2^split_bits warps share `warp_rows` rows.
inline int64_t PlanWarps(std::span<const MatVecMatrix> matrices, int64_t cols, int n, int warp_rows,
                         int split_bits, MatVecLaunch& launch) {
  launch.split_bits = split_bits;
  launch.split = 1 << launch.split_bits;
  launch.n = n;
  launch.cols = cols;
  launch.column_chunks = (n + kMatVecColumns - 1) / kMatVecColumns;
  launch.matrix_count = static_cast<int>(matrices.size());
  const int64_t block_rows = warp_rows * (kMatVecWarps / launch.split);
  int64_t blocks = 0;
  for (int i = 0; i < launch.matrix_count; ++i) {
    launch.matrices[i] = {matrices[i], static_cast<unsigned>(blocks)};
    blocks += (matrices[i].rows + block_rows - 1) / block_rows;
  }
  return blocks * launch.column_chunks;
}

// The same for a kernel whose warps take `chunk_elements` of `warp_rows` rows at a time.
inline int64_t PlanMatVec(std::span<const MatVecMatrix> matrices, int64_t cols, int n,
                          int chunk_elements, MatVecLaunch& launch, int warp_rows = kMatVecRows) {
  const int64_t chunks = (cols + chunk_elements - 1) / chunk_elements;
  return PlanWarps(matrices, cols, n, warp_rows, ChooseSplitBits(RowsOf(matrices), chunks), launch);
}

// The smallest kernel for n columns: 1, 2, 4 or 8.
inline int RoundUpColumns(int n) { return n <= 2 ? n : n <= 4 ? 4 : kMatVecColumns; }

#ifdef __CUDACC__

// What one warp is to do.
struct MatVecTask {
  int matrix;        // of launch.matrices
  int64_t row;       // the first; may lie beyond the last, then there is nothing to do
  int part;          // which of the `split` parts of the columns of weights
  int first_column;  // of activations
};

// block: of the launch's.
template <int kRows = kMatVecRows>
__device__ __forceinline__ MatVecTask FindMatVecTask(const MatVecLaunch& launch, unsigned block) {
  // Blocks of the same rows are neighbours, so that the second finds the weights in the cache.
  unsigned chunk = 0;
  if (launch.column_chunks > 1) {
    chunk = block % static_cast<unsigned>(launch.column_chunks);
    block /= static_cast<unsigned>(launch.column_chunks);
  }
  MatVecTask task;
  task.first_column = static_cast<int>(chunk) * kMatVecColumns;
  task.matrix = 0;
#pragma unroll
  for (int i = 1; i < kMaxMatVecMatrices; ++i) {
    if (i < launch.matrix_count && block >= launch.matrices[i].first_block) task.matrix = i;
  }
  block -= launch.matrices[task.matrix].first_block;
  const unsigned warp = threadIdx.x / 32;
  static_assert(kMatVecWarps == 4);
  const unsigned team = (block << (2 - launch.split_bits)) + (warp >> launch.split_bits);
  task.part = static_cast<int>(warp) & (launch.split - 1);
  task.row = int64_t{team} * kRows;
  return task;
}

// Adds up the lanes' sums (and those of the warps that share the rows) and stores the products,
// each column's times factor_of(column). All threads of the block call it.
template <int kRows, int kColumns, class FactorOf>
__device__ __forceinline__ void FinishMatVec(const MatVecLaunch& launch, const MatVecTask& task,
                                             float (&sums)[kRows][kColumns],
                                             const FactorOf& factor_of) {
  constexpr int kSums = kRows * kColumns;
  static_assert(kSums <= 32);
  __shared__ float parts[kMatVecWarps][kSums];
  const int lane = threadIdx.x % 32;
  float sum = 0;  // lane i: sum i
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    float value = sums[i / kColumns][i % kColumns];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    if (lane == i) sum = value;
  }
  if (launch.split > 1) {
    const int warp = threadIdx.x / 32;
    if (lane < kSums) parts[warp][lane] = sum;
    __syncthreads();
    if (task.part != 0) return;
    if (lane < kSums) {
      for (int part = 1; part < launch.split; ++part) sum += parts[warp + part][lane];
    }
  }
  const int64_t row = task.row + lane / kColumns;
  const int column = task.first_column + lane % kColumns;
  const MatVecMatrix& matrix = launch.matrices[task.matrix].matrix;
  if (lane < kSums && row < matrix.rows && column < launch.n) {
    if (matrix.scale != nullptr) sum *= *matrix.scale;
    sum = fmaf(sum, factor_of(column), matrix.bias != nullptr ? matrix.bias[row] : 0.0f);
    matrix.y[column * matrix.y_stride + row] = sum;
  }
}

#endif  // __CUDACC__

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_MATVEC_LAUNCH_CUH_
