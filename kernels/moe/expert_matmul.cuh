// The kernel of MultiplyExpertsHalf, to be instantiated a few formats a source file.
//
// A block multiplies 128 rows of one expert's matrix with up to 64 of its pairs, 64 columns at a
// time: while tensor cores work on one step's tiles, the activations of the next come in by
// asynchronous copies and each thread expands one group of 32 weights. Weights are expanded once
// for 64 pairs, so that a bank that has just come over the link is read where it lies.
#ifndef KERNELS_MOE_EXPERT_MATMUL_CUH_
#define KERNELS_MOE_EXPERT_MATMUL_CUH_

#include <type_traits>

#include "kernels/attention/shared_tile.cuh"
#include "kernels/moe/expert_launch.h"
#include "kernels/quant/dequantize_tile.cuh"

namespace gguf_offload::cuda {

inline constexpr int kExpertMatMulColumns = 64;   // a step
inline constexpr int kExpertMatMulThreads = 256;  // two groups of each row

struct ExpertMatMulShared {
  __half x[2][kExpertMatMulPairs][kExpertMatMulColumns];
  __half w[2][kExpertMatMulRows][kExpertMatMulColumns];
};

// Rows are 8 chunks of 16 bytes; chunk c of row r lies in the place of chunk c ^ (r % 8).
__device__ __forceinline__ uint32_t ChunkAddress(uint32_t tile, int row, int chunk) {
  return tile + row * (kExpertMatMulColumns * 2) + (chunk ^ row % 8) * 16;
}

// Expands group `group` of a row of weights, four chunks from `chunk` on.
template <quant::TensorType kType, bool kPlain>
__device__ __forceinline__ void ExpandGroup(const uint8_t* row_of_weights, int64_t cols, int group,
                                            uint32_t tile, int row, int chunk) {
  float values[32];
  if constexpr (kPlain) {
    using Stored = typename PlainNumber<kType>::Stored;
    const Stored* stored = reinterpret_cast<const Stored*>(row_of_weights);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int64_t column = group * 32 + i;
      values[i] = column < cols ? PlainNumber<kType>::ToFloat(stored[column]) : 0.0f;
    }
  } else {
    using Decoder = GroupDecoder<kType>;
    constexpr int kGroups = Decoder::kBlockElements / 32;
    Group32 decoded;
    Decoder::Decode(row_of_weights + static_cast<int64_t>(group / kGroups) * Decoder::kBlockBytes,
                    group % kGroups, decoded);
#pragma unroll
    for (int i = 0; i < 32; ++i) values[i] = ValueOf<Decoder>(decoded, i);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    StoreChunk(ChunkAddress(tile, row, chunk + i), Pack16Bytes<__half>(values + 8 * i));
  }
}

// Left operands: rows first + {0..15}, the summed index is columns 16 * k + {0..15}.
__device__ __forceinline__ uint4 PairOperands(uint32_t tile, int first, int k) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
  return LoadMatrices(ChunkAddress(tile, first + matrix % 2 * 8 + lane % 8, 2 * k + matrix / 2));
}
// Right operands of two products: columns are rows of weights first + {0..7} and first + {8..15}.
__device__ __forceinline__ uint4 WeightOperands(uint32_t tile, int first, int k) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
  return LoadMatrices(ChunkAddress(tile, first + matrix / 2 * 8 + lane % 8, 2 * k + matrix % 2));
}

template <quant::TensorType kType, bool kPlain>
__global__ void __launch_bounds__(kExpertMatMulThreads, 2)
    ExpertMatMulKernel(const __grid_constant__ ExpertMatMulLaunch launch) {
  __shared__ __align__(128) ExpertMatMulShared shared;
  const ExpertTile tile = launch.order.tiles[blockIdx.y];
  if (tile.count == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int matrix = static_cast<int>(blockIdx.x) / launch.row_blocks;
  const int64_t first_row =
      static_cast<int64_t>(blockIdx.x % launch.row_blocks) * kExpertMatMulRows;
  const ExpertMatrices& matrices = launch.products.matrices[matrix];
  const uint8_t* weights = MatrixOf(matrices, tile.expert, matrices.rows * launch.row_bytes) +
                           first_row * launch.row_bytes;
  const int32_t* pairs = launch.order.pairs + tile.first;

  // What this thread brings: chunk thread % 8 of two rows of x, and half of a row of weights.
  const int own_chunk = threadIdx.x % 8, own_pair = threadIdx.x / 8;
  const __half* own_x[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int pair = own_pair + 32 * i;
    own_x[i] = pair < tile.count
                   ? launch.x + pairs[pair] / launch.products.pairs_per_row * launch.x_columns
                   : nullptr;
  }
  const int own_row = threadIdx.x / 2, own_group = threadIdx.x % 2;
  const bool has_row = first_row + own_row < matrices.rows;
  const int groups = static_cast<int>((matrices.cols + 31) / 32);
  const auto bring = [&](int step, int buffer) {
    const uint32_t x_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared.x[buffer]));
    const uint32_t w_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared.w[buffer]));
    const int64_t column = int64_t{step} * kExpertMatMulColumns + own_chunk * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool copy = own_x[i] != nullptr && column < launch.x_columns;
      CopyChunk(ChunkAddress(x_tile, own_pair + 32 * i, own_chunk),
                copy ? own_x[i] + column : launch.x, copy);
    }
    const int group = 2 * step + own_group;
    if (has_row && group < groups) {
      ExpandGroup<kType, kPlain>(weights + own_row * launch.row_bytes, matrices.cols, group, w_tile,
                                 own_row, 4 * own_group);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        StoreChunk(ChunkAddress(w_tile, own_row, 4 * own_group + i), make_uint4(0, 0, 0, 0));
      }
    }
  };

  // A warp: pairs [warp_pair, + 32) by rows [warp_row, + 32).
  const int warp_pair = warp / 4 * 32, warp_row = warp % 4 * 32;
  float sums[2][4][4] = {};
  const int steps = (groups + 1) / 2;
  bring(0, 0);
  for (int step = 0; step < steps; ++step) {
    const int buffer = step % 2;
    WaitForCopies();
    __syncthreads();
    if (step + 1 < steps) bring(step + 1, 1 - buffer);
    const uint32_t x_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared.x[buffer]));
    const uint32_t w_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared.w[buffer]));
    if (warp_pair >= tile.count) continue;
#pragma unroll
    for (int k = 0; k < kExpertMatMulColumns / 16; ++k) {
      const uint4 w[2] = {WeightOperands(w_tile, warp_row, k),
                          WeightOperands(w_tile, warp_row + 16, k)};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if (warp_pair + 16 * m >= tile.count) continue;  // the same for the warp
        const uint4 x = PairOperands(x_tile, warp_pair + 16 * m, k);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          MultiplyAdd(sums[m][2 * n], x, w[n].x, w[n].y);
          MultiplyAdd(sums[m][2 * n + 1], x, w[n].z, w[n].w);
        }
      }
    }
  }

  float* const y = launch.products.y[matrix];
  const float* bias =
      matrices.bias == nullptr ? nullptr : matrices.bias + tile.expert * matrices.rows;
  const float expert_scale = matrices.scale == nullptr ? 1.0f : matrices.scale[tile.expert];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int index = warp_pair + 8 * i + g;
    if (index >= tile.count) continue;
    const int64_t pair = pairs[index];
    const float scale = launch.row_scale[pair / launch.products.pairs_per_row] * expert_scale;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int64_t row = first_row + warp_row + 8 * n + 2 * t + e;
        if (row >= matrices.rows) continue;
        const float sum = sums[i / 2][n][i % 2 * 2 + e] * scale;
        y[pair * launch.products.y_stride + row] = bias == nullptr ? sum : sum + bias[row];
      }
    }
  }
}

template <quant::TensorType kType, bool kPlain>
void LaunchExpertMatMul(const ExpertMatMulLaunch& launch, int tiles, cudaStream_t stream) {
  const dim3 grid(launch.products.count * launch.row_blocks, tiles);
  ExpertMatMulKernel<kType, kPlain><<<grid, kExpertMatMulThreads, 0, stream>>>(launch);
}

#define GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(type, plain)                                        \
  template void LaunchExpertMatMul<quant::TensorType::type, plain>(const ExpertMatMulLaunch&, int, \
                                                                   cudaStream_t)

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_MATMUL_CUH_
