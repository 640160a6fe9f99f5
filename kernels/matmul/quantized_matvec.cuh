// The kernel behind quantized_matvec_cuda.h, to be instantiated a few formats a source file.
//
// Blocks are 17 to 210 bytes long, so lanes that read their own groups from global memory would use
// small parts of many sectors with unaligned loads. Instead, a warp copies a chunk of 32 groups of
// each of its rows to shared memory in pieces of 16 bytes, several chunks ahead, and each lane then
// decodes its group from there.
#ifndef KERNELS_MATMUL_QUANTIZED_MATVEC_CUH_
#define KERNELS_MATMUL_QUANTIZED_MATVEC_CUH_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "kernels/matmul/async_copy.cuh"
#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/quant/decode_group.cuh"

namespace gguf_offload::cuda {

inline constexpr int kChunkGroups = 32;  // a lane each
inline constexpr int kChunkElements = 32 * kChunkGroups;

// Sizes of a warp's part of shared memory.
template <class Decoder>
struct ChunkStaging {
  static constexpr int kGroupsPerBlock = Decoder::kBlockElements / 32;
  static constexpr int kChunkBytes =
      kChunkElements / Decoder::kBlockElements * Decoder::kBlockBytes;
  // Pieces of 16 bytes that hold a row's chunk, wherever it begins.
  static constexpr int kRowPieces = (kChunkBytes + (16 - Decoder::kAlignment) + 15) / 16;
  static constexpr int kRowBytes = 16 * kRowPieces;
  static constexpr int kPieces = kMatVecRows * kRowPieces;
  static constexpr int kBytes = 16 * kPieces;
  // With 32 warps a processor, 160 KiB of its shared memory at most, which leaves the first-level
  // cache room for activations.
  static constexpr int kStages = std::clamp(5632 / kBytes, 2, 4);
};

// The rows of a warp. Offsets are from `origin`.
struct WarpRows {
  const uint8_t* origin;  // 16-byte aligned
  uint32_t first;         // first byte of the first row
  uint32_t row_stride;    // to the second row; 0 if there is none
  uint32_t row_bytes;
};

// Begins to copy chunk `chunk` of the warp's rows to `stage`.
template <class Staging>
__device__ __forceinline__ void CopyChunk(const WarpRows& rows, int chunk, int lane,
                                          uint8_t* stage) {
#pragma unroll
  for (int first = 0; first < Staging::kPieces; first += 32) {
    const int index = first + lane;
    const int row = index / Staging::kRowPieces;
    const uint32_t row_begin = rows.first + row * rows.row_stride;
    const uint32_t begin = row_begin + chunk * Staging::kChunkBytes;
    const uint32_t end = min(begin + Staging::kChunkBytes, row_begin + rows.row_bytes);
    const uint32_t piece = (begin & ~15u) + 16 * (index - row * Staging::kRowPieces);
    if (index < Staging::kPieces && piece < end) {
      AsyncCopy16(stage + 16 * index, rows.origin + piece);
    }
  }
}

// 32 activations of one column.
struct ActivationGroup {
  int4 q[2];
  float2 scale;
};

// x.q and x.scale at `group` of column `column`.
__device__ __forceinline__ ActivationGroup LoadActivations(const QuantizedRows& x, int column,
                                                           int group) {
  ActivationGroup out;
  const int4* q = reinterpret_cast<const int4*>(x.q + column * x.columns) + 2 * group;
  out.q[0] = q[0];
  out.q[1] = q[1];
  out.scale = x.scale[column * (x.columns / 32) + group];
  return out;
}

__device__ __forceinline__ int Dot16(const uint32_t* w, int4 x, int sum) {
  sum = __dp4a(static_cast<int>(w[0]), x.x, sum);
  sum = __dp4a(static_cast<int>(w[1]), x.y, sum);
  sum = __dp4a(static_cast<int>(w[2]), x.z, sum);
  return __dp4a(static_cast<int>(w[3]), x.w, sum);
}

// Adds the group's products to `sums`, one a row.
template <class Decoder, int kColumns>
__device__ __forceinline__ void AddProducts(const Group32 (&w)[kMatVecRows],
                                            const ActivationGroup& x, int column,
                                            float (&sums)[kMatVecRows][kColumns]) {
  float lower = 0, upper = 0;  // sums of the activations of each half, if they are needed
  if constexpr (Decoder::kHasOffset && Decoder::kTwoScales) {
    constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    lower = x.scale.x * static_cast<float>(Dot16(kOnes, x.q[0], 0));
    upper = x.scale.x * static_cast<float>(Dot16(kOnes, x.q[1], 0));
  }
#pragma unroll
  for (int row = 0; row < kMatVecRows; ++row) {
    float sum = sums[row][column];
    const int first = Dot16(w[row].q, x.q[0], 0);
    if constexpr (Decoder::kTwoScales) {
      const int second = Dot16(w[row].q + 4, x.q[1], 0);
      const float product = fmaf(w[row].scale[0], static_cast<float>(first),
                                 w[row].scale[1] * static_cast<float>(second));
      sum = fmaf(x.scale.x, product, sum);
      if constexpr (Decoder::kHasOffset) {
        sum = fmaf(w[row].offset[0], lower, sum);
        sum = fmaf(w[row].offset[1], upper, sum);
      }
    } else {
      const int both = Dot16(w[row].q + 4, x.q[1], first);
      sum = fmaf(x.scale.x * w[row].scale[0], static_cast<float>(both), sum);
      if constexpr (Decoder::kHasOffset) sum = fmaf(w[row].offset[0], x.scale.y, sum);
    }
    sums[row][column] = sum;
  }
}

// Blocks a processor: for one column 64 registers a thread and 32 warps; more columns need more
// registers, and wait less for weights.
template <int kColumns>
inline constexpr int kMinBlocks = kColumns == 1   ? 8
                                  : kColumns == 2 ? 7
                                  : kColumns == 4 ? 6
                                                  : 5;

template <quant::TensorType kType, int kColumns>
__global__ void __launch_bounds__(32 * kMatVecWarps, kMinBlocks<kColumns>)
    QuantizedMatVecKernel(const __grid_constant__ MatVecLaunch launch, QuantizedRows x) {
  using Decoder = GroupDecoder<kType>;
  using Staging = ChunkStaging<Decoder>;
  constexpr int kStages = Staging::kStages;
  __shared__ __align__(16) uint8_t staged[kMatVecWarps][kStages][Staging::kBytes];

  const MatVecTask task = FindMatVecTask(launch);
  const int lane = threadIdx.x % 32;
  uint8_t(&stages)[kStages][Staging::kBytes] = staged[threadIdx.x / 32];
  const int groups = static_cast<int>(launch.cols / 32);
  const int chunks = (groups + kChunkGroups - 1) / kChunkGroups;
  float sums[kMatVecRows][kColumns] = {};

  LetLaterKernelsBegin();
  const MatVecMatrix& matrix = launch.matrices[task.matrix].matrix;
  if (task.row >= matrix.rows) {
    AwaitEarlierKernels();
  } else {
    const int64_t row_bytes = launch.cols / Decoder::kBlockElements * Decoder::kBlockBytes;
    const uint8_t* first = matrix.weight + task.row * row_bytes;
    const uint32_t misalignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(first)) & 15;
    WarpRows rows{first - misalignment, misalignment, 0, static_cast<uint32_t>(row_bytes)};
    if (task.row + 1 < matrix.rows) rows.row_stride = rows.row_bytes;

    const int step = launch.split;
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int chunk = task.part + stage * step;
      if (chunk < chunks) CopyChunk<Staging>(rows, chunk, lane, stages[stage]);
      AsyncCommit();
    }
    AwaitEarlierKernels();  // with the first weights on their way
    int stage = 0;
    for (int chunk = task.part; chunk < chunks; chunk += step) {
      const int group = chunk * kChunkGroups + lane;
      const bool active = group < groups;
      // For a single column before the wait, which they would only lengthen.
      ActivationGroup early;
      if (kColumns == 1 && active) early = LoadActivations(x, task.first_column, group);
      AsyncWait<kStages - 1>();
      __syncwarp();
      if (active) {
        Group32 w[kMatVecRows];
#pragma unroll
        for (int row = 0; row < kMatVecRows; ++row) {
          const uint32_t begin = rows.first + row * rows.row_stride + chunk * Staging::kChunkBytes;
          const uint8_t* block = stages[stage] + row * Staging::kRowBytes + (begin & 15) +
                                 lane / Staging::kGroupsPerBlock * Decoder::kBlockBytes;
          Decoder::Decode(block, lane % Staging::kGroupsPerBlock, w[row]);
        }
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          if constexpr (kColumns == 1) {
            AddProducts<Decoder>(w, early, column, sums);
          } else {
            // Beyond the last column that one again; its products are not stored.
            const int from = min(task.first_column + column, launch.n - 1);
            AddProducts<Decoder>(w, LoadActivations(x, from, group), column, sums);
          }
        }
      }
      __syncwarp();
      const int next = chunk + kStages * step;
      if (next < chunks) CopyChunk<Staging>(rows, next, lane, stages[stage]);
      AsyncCommit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }
  FinishMatVec(launch, task, sums);
}

template <quant::TensorType kType>
void LaunchQuantizedMatVec(const MatVecLaunch& launch, int64_t blocks, const QuantizedRows& x,
                           cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks));
  constexpr int kThreads = 32 * kMatVecWarps;
  switch (RoundUpColumns(launch.n)) {
    case 1:
      LaunchDependent(QuantizedMatVecKernel<kType, 1>, grid, kThreads, 0, stream, launch, x);
      break;
    case 2:
      LaunchDependent(QuantizedMatVecKernel<kType, 2>, grid, kThreads, 0, stream, launch, x);
      break;
    case 4:
      LaunchDependent(QuantizedMatVecKernel<kType, 4>, grid, kThreads, 0, stream, launch, x);
      break;
    default:
      LaunchDependent(QuantizedMatVecKernel<kType, 8>, grid, kThreads, 0, stream, launch, x);
  }
}

#define GGUF_OFFLOAD_INSTANTIATE_MATVEC(type)                                                \
  template void LaunchQuantizedMatVec<quant::TensorType::type>(const MatVecLaunch&, int64_t, \
                                                               const QuantizedRows&, cudaStream_t)

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_QUANTIZED_MATVEC_CUH_
