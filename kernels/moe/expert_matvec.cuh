// The kernel of MultiplyExpertsInt8, to be instantiated a few formats a source file: that of
// quantized_matvec.cuh, but for where weights and activations are found.
#ifndef KERNELS_MOE_EXPERT_MATVEC_CUH_
#define KERNELS_MOE_EXPERT_MATVEC_CUH_

#include "kernels/matmul/quantized_matvec.cuh"
#include "kernels/moe/expert_launch.h"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {

// What a lane has of a row's sum over experts before the last one's product comes (ExpertSum): of
// row first_row + lane, if it is one of the warp's.
struct LaneOfSum {
  float old = 0;     // what the sum is added to
  float others = 0;  // of the experts before
  float weight = 0;  // of the last one

  __device__ __forceinline__ void Load(const ExpertSum& sum, int64_t row) {
    const int before = sum.chosen.used - 1;
    old = sum.out[row];
    weight = sum.chosen.weights[before];
#pragma unroll 8
    for (int i = 0; i < before; ++i) {
      others = fmaf(sum.chosen.weights[i], sum.y[i * sum.y_stride + row], others);
    }
  }
  __device__ __forceinline__ float With(float product) const {
    return old + fmaf(weight, product, others);
  }
};

// The sums of a warp, over its lanes and the warps that share its rows, into y.
template <int kColumns>
__device__ __forceinline__ void FinishExpertMatVec(const ExpertMatVecLaunch& launch, int matrix,
                                                   const ExpertTile& tile, int64_t first_row,
                                                   int64_t end_row,
                                                   float (&sums)[kMatVecRows][kColumns],
                                                   const LaneOfSum& of_sum) {
  constexpr int kSums = kMatVecRows * kColumns;
  __shared__ float parts[kMatVecWarps][kSums];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
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
    if (lane < kSums) parts[warp][lane] = sum;
    __syncthreads();
    if (warp % launch.split != 0) return;
    if (lane < kSums) {
      for (int part = 1; part < launch.split; ++part) sum += parts[warp + part][lane];
    }
  }
  const ExpertMatrices& matrices = launch.products.matrices[matrix];
  const int64_t row = first_row + lane / kColumns;
  const int column = lane % kColumns;
  if (lane >= kSums || row >= end_row || column >= tile.count) return;
  if (matrices.scale != nullptr) sum *= matrices.scale[tile.expert];
  if (matrices.bias != nullptr) sum += matrices.bias[tile.expert * matrices.rows + row];
  if (kColumns == 1 && launch.products.sum.out != nullptr) {
    launch.products.sum.out[row] = of_sum.With(sum);
    return;
  }
  const int64_t pair =
      launch.order.tiles == nullptr ? tile.first : launch.order.pairs[tile.first + column];
  launch.products.y[matrix][pair * launch.products.y_stride + row] = sum;
}

template <quant::TensorType kType, int kColumns>
__global__ void __launch_bounds__(32 * kMatVecWarps, kColumns == 1 ? 8 : 4)
    ExpertMatVecKernel(const __grid_constant__ ExpertMatVecLaunch launch, QuantizedRows x) {
  LetLaterKernelsBegin();
  // The last product of a row comes long after the choice of its expert: the way to the matrix is
  // found while the matrix itself is still on its way to its slot.
  const bool ends_sum = launch.products.sum.out != nullptr;
  if (!ends_sum) AwaitEarlierKernels();
  using Decoder = GroupDecoder<kType>;
  using Staging = ChunkStaging<Decoder>;
  constexpr int kStages = Staging::kStages;
  __shared__ __align__(16) uint8_t staged[kMatVecWarps][kStages][Staging::kBytes];

  ExpertTile tile;
  if (launch.order.tiles == nullptr) {
    const int pair = static_cast<int>(blockIdx.y);
    tile.expert = __ldcg(&launch.experts[pair]);
    tile.first = pair;
    tile.count = tile.expert >= 0;
  } else {
    tile = launch.order.tiles[blockIdx.y];
  }
  if (tile.count == 0) {
    AwaitEarlierKernels();
    return;
  }

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int matrix = static_cast<int>(blockIdx.x) / launch.row_blocks;
  const int64_t row_block = static_cast<int>(blockIdx.x) % launch.row_blocks;
  const ExpertMatrices& matrices = launch.products.matrices[matrix];
  const int part = warp % launch.split;
  const int64_t row =
      launch.products.sum.first_row +
      (row_block * (kMatVecWarps / launch.split) + warp / launch.split) * kMatVecRows;
  const int64_t end_row = ends_sum ? launch.products.sum.end_row : matrices.rows;
  int x_rows[kColumns];
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    int pair = tile.first + min(column, tile.count - 1);
    if (launch.order.tiles != nullptr) pair = launch.order.pairs[pair];
    x_rows[column] = pair / launch.products.pairs_per_row;
  }

  uint8_t(&stages)[kStages][Staging::kBytes] = staged[warp];
  const int groups = static_cast<int>(matrices.cols / 32);
  const int chunks = (groups + kChunkGroups - 1) / kChunkGroups;
  float sums[kMatVecRows][kColumns] = {};
  LaneOfSum of_sum;
  if (row >= end_row) {
    AwaitEarlierKernels();
  } else {
    const int64_t row_bytes = matrices.cols / Decoder::kBlockElements * Decoder::kBlockBytes;
    const uint8_t* first = MatrixOf(matrices, tile.expert, launch.matrix_bytes) + row * row_bytes;
    const uint32_t misalignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(first)) & 15;
    const WarpRows rows{first - misalignment, misalignment, static_cast<uint32_t>(row_bytes),
                        row + 1 < end_row ? 1 : 0};

    const ChunkCopier<Staging> copier(rows, lane);

    if (ends_sum) AwaitEarlierKernels();
    const int step = launch.split;
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int chunk = part + stage * step;
      if (chunk < chunks) copier.Copy(chunk, stages[stage]);
      AsyncCommit();
    }
    if (kColumns == 1 && ends_sum && part == 0 && lane < kMatVecRows && row + lane < end_row) {
      of_sum.Load(launch.products.sum, row + lane);
    }
    int stage = 0;
    for (int chunk = part; chunk < chunks; chunk += step) {
      const int group = chunk * kChunkGroups + lane;
      const bool active = group < groups;
      ActivationGroup early;
      if (kColumns == 1 && active) early = LoadActivations(x, x_rows[0], group);
      AsyncWait<kStages - 1>();
      __syncwarp();
      if (active) {
        Group32 w[kMatVecRows];
#pragma unroll
        for (int i = 0; i < kMatVecRows; ++i) {
          uint32_t begin = rows.Begin(i);
          if (!Staging::kAlignedChunks) begin += chunk * Staging::kChunkBytes;
          const uint8_t* block = stages[stage] + i * Staging::kRowBytes + (begin & 15) +
                                 lane / Staging::kGroupsPerBlock * Decoder::kBlockBytes;
          Decoder::Decode(block, lane % Staging::kGroupsPerBlock, w[i]);
        }
        if constexpr (kColumns == 1) {
          AddProducts<Decoder>(w, early, 0, sums);
        } else {
#pragma unroll
          for (int column = 0; column < kColumns; ++column) {
            if (column >= tile.count) continue;  // the same for all threads
            AddProducts<Decoder>(w, LoadActivations(x, x_rows[column], group), column, sums);
          }
        }
      }
      __syncwarp();
      const int next = chunk + kStages * step;
      if (next < chunks) copier.Copy(next, stages[stage]);
      AsyncCommit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }
  if (kColumns == 1 && ends_sum && blockIdx.x == 0) {
    const ExpertSum& sum = launch.products.sum;
    for (int i = threadIdx.x; sum.uses != nullptr && i < sum.chosen.used; i += blockDim.x) {
      atomicAdd(&sum.uses[sum.chosen.experts[i]], 1u);
    }
  }
  FinishExpertMatVec(launch, matrix, tile, row, end_row, sums, of_sum);
}

template <quant::TensorType kType>
void LaunchExpertMatVec(const ExpertMatVecLaunch& launch, int tiles, const QuantizedRows& x,
                        cudaStream_t stream) {
  const dim3 grid(launch.products.count * launch.row_blocks, tiles);
  constexpr int kThreads = 32 * kMatVecWarps;
  if (launch.order.tiles == nullptr) {
    LaunchDependent(ExpertMatVecKernel<kType, 1>, grid, kThreads, 0, stream, launch, x);
  } else {
    LaunchDependent(ExpertMatVecKernel<kType, kExpertMatVecPairs>, grid, kThreads, 0, stream,
                    launch, x);
  }
}

#define GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATVEC(type)                                        \
  template void LaunchExpertMatVec<quant::TensorType::type>(const ExpertMatVecLaunch&, int, \
                                                            const QuantizedRows&, cudaStream_t)

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_MATVEC_CUH_
