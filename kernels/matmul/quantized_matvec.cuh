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

// Sizes of a warp's part of shared memory, for kRows rows.
template <class Decoder, int kRows = kMatVecRows>
struct ChunkStaging {
  static constexpr int kGroupsPerBlock = Decoder::kBlockElements / 32;
  static constexpr int kChunkBytes =
      kChunkElements / Decoder::kBlockElements * Decoder::kBlockBytes;
  // Pieces of 16 bytes that hold a row's chunk, wherever it begins.
  static constexpr int kRowPieces = (kChunkBytes + (16 - Decoder::kAlignment) + 15) / 16;
  static constexpr int kRowBytes = 16 * kRowPieces;
  static constexpr int kPieces = kRows * kRowPieces;
  static constexpr int kBytes = 16 * kPieces;
  // Whether all chunks of a row begin at the same address modulo 16.
  static constexpr bool kAlignedChunks = kChunkBytes % 16 == 0;
  // With 32 warps a processor, 160 KiB of its shared memory at most, which leaves the first-level
  // cache room for activations.
  static constexpr int kStages = std::clamp(5632 / kBytes, 2, 4);
};

// The rows of a warp. Offsets are from `origin`.
struct WarpRows {
  const uint8_t* origin;  // 16-byte aligned
  uint32_t first;         // first byte of the first row
  uint32_t row_bytes;
  int last;  // row; beyond it that one again

  __device__ __forceinline__ uint32_t Begin(int row) const {
    return first + min(row, last) * row_bytes;
  }
};

// A lane's part in copying chunks of the warp's rows: what does not depend on the chunk.
template <class Staging>
class ChunkCopier {
 public:
  __device__ __forceinline__ ChunkCopier(const WarpRows& rows, int lane)
      : origin_(rows.origin), lane_(lane) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const uint32_t begin = rows.Begin(Index(i) / Staging::kRowPieces);
      const bool is_there = Index(i) < Staging::kPieces;
      if constexpr (Staging::kAlignedChunks) {
        begin_[i] = FirstPiece(begin) + PieceOffset(i);
        const bool is_in_chunk = begin_[i] < begin + Staging::kChunkBytes;
        end_[i] = is_there && is_in_chunk ? begin + rows.row_bytes : 0;
      } else {
        begin_[i] = begin;
        end_[i] = is_there ? begin + rows.row_bytes : 0;
      }
    }
  }

  // Begins to copy chunk `chunk` to `stage`.
  __device__ __forceinline__ void Copy(int chunk, uint8_t* stage) const {
    const uint32_t offset = chunk * Staging::kChunkBytes;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      uint32_t piece = begin_[i] + offset, end = end_[i];
      if constexpr (!Staging::kAlignedChunks) {
        end = min(piece + Staging::kChunkBytes, end);
        piece = FirstPiece(piece) + PieceOffset(i);
      }
      AsyncCopy16(stage + 16 * Index(i), origin_ + piece, piece < end);
    }
  }

 private:
  static constexpr int kPieces = (Staging::kPieces + 31) / 32;  // of a lane

  __device__ __forceinline__ int Index(int i) const { return 32 * i + lane_; }
  __device__ __forceinline__ uint32_t PieceOffset(int i) const {
    return 16 * (Index(i) % Staging::kRowPieces);
  }
  static __device__ __forceinline__ uint32_t FirstPiece(uint32_t begin) { return begin & ~15u; }

  const uint8_t* const origin_;
  const int lane_;
  uint32_t begin_[kPieces];  // of the piece in chunk 0, if chunks are alike; otherwise of its row
  uint32_t end_[kPieces];    // of its row; 0 if the lane has no such piece
};

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

// sum + the products of four bytes.
template <bool kUnsigned>
__device__ __forceinline__ int Dot4(uint32_t w, int x, int sum) {
  if constexpr (kUnsigned) {
    int result;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(w), "r"(x), "r"(sum));
    return result;
  } else {
    return __dp4a(static_cast<int>(w), x, sum);
  }
}

template <bool kUnsigned>
__device__ __forceinline__ int Dot16(const uint32_t* w, int4 x, int sum) {
  sum = Dot4<kUnsigned>(w[0], x.x, sum);
  sum = Dot4<kUnsigned>(w[1], x.y, sum);
  sum = Dot4<kUnsigned>(w[2], x.z, sum);
  return Dot4<kUnsigned>(w[3], x.w, sum);
}

// Adds the group's products to `sums`, one a row.
template <class Decoder, int kRows, int kColumns>
__device__ __forceinline__ void AddProducts(const Group32 (&w)[kRows], const ActivationGroup& x,
                                            int column, float (&sums)[kRows][kColumns]) {
  constexpr bool kUnsigned = kUnsignedBytes<Decoder>;
  float lower = 0, upper = 0;  // sums of the activations of each half, if they are needed
  if constexpr (Decoder::kHasOffset && Decoder::kTwoScales) {
    constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    lower = x.scale.x * static_cast<float>(Dot16<false>(kOnes, x.q[0], 0));
    upper = x.scale.x * static_cast<float>(Dot16<false>(kOnes, x.q[1], 0));
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    float sum = sums[row][column];
    const int first = Dot16<kUnsigned>(w[row].q, x.q[0], 0);
    if constexpr (Decoder::kTwoScales) {
      const int second = Dot16<kUnsigned>(w[row].q + 4, x.q[1], 0);
      const float product = fmaf(w[row].scale[0], static_cast<float>(first),
                                 w[row].scale[1] * static_cast<float>(second));
      sum = fmaf(x.scale.x, product, sum);
      if constexpr (Decoder::kHasOffset) {
        sum = fmaf(w[row].offset[0], lower, sum);
        sum = fmaf(w[row].offset[1], upper, sum);
      }
    } else {
      const int both = Dot16<kUnsigned>(w[row].q + 4, x.q[1], first);
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

// Block `block` of a launch whose warps have kRows rows.
template <quant::TensorType kType, int kColumns, int kRows = kMatVecRows>
__device__ __forceinline__ void StagedMatVec(const MatVecLaunch& launch, const QuantizedRows& x,
                                             unsigned block) {
  using Decoder = GroupDecoder<kType>;
  using Staging = ChunkStaging<Decoder, kRows>;
  constexpr int kStages = Staging::kStages;
  __shared__ __align__(16) uint8_t staged[kMatVecWarps][kStages][Staging::kBytes];

  const MatVecTask task = FindMatVecTask<kRows>(launch, block);
  const int lane = threadIdx.x % 32;
  uint8_t(&stages)[kStages][Staging::kBytes] = staged[threadIdx.x / 32];
  const int groups = static_cast<int>(launch.cols / 32);
  const int chunks = (groups + kChunkGroups - 1) / kChunkGroups;
  float sums[kRows][kColumns] = {};
  float squares = 0;

  LetLaterKernelsBegin();
  const MatVecMatrix& matrix = launch.matrices[task.matrix].matrix;
  if (task.row >= matrix.rows) {
    AwaitEarlierKernels();
  } else {
    const int64_t row_bytes = launch.cols / Decoder::kBlockElements * Decoder::kBlockBytes;
    const uint8_t* first = matrix.weight + task.row * row_bytes;
    const uint32_t misalignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(first)) & 15;
    const WarpRows rows{first - misalignment, misalignment, static_cast<uint32_t>(row_bytes),
                        static_cast<int>(min(matrix.rows - task.row, int64_t{kRows})) - 1};

    const ChunkCopier<Staging> copier(rows, lane);

    const int step = launch.split;
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int chunk = task.part + stage * step;
      if (chunk < chunks) copier.Copy(chunk, stages[stage]);
      AsyncCommit();
    }
    AwaitEarlierKernels();  // with the first weights on their way
    if (kColumns == 1) squares = LoadSquares(x);
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
        Group32 w[kRows];
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          uint32_t begin = rows.Begin(row);
          if (!Staging::kAlignedChunks) begin += chunk * Staging::kChunkBytes;
          const uint8_t* in_stage = stages[stage] + row * Staging::kRowBytes + (begin & 15) +
                                    lane / Staging::kGroupsPerBlock * Decoder::kBlockBytes;
          Decoder::Decode(in_stage, lane % Staging::kGroupsPerBlock, w[row]);
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
      if (next < chunks) copier.Copy(next, stages[stage]);
      AsyncCommit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }
  FinishMatVec(launch, task, sums, ColumnFactors<kColumns>(x, squares));
}

template <quant::TensorType kType, int kColumns>
__global__ void __launch_bounds__(32 * kMatVecWarps, kMinBlocks<kColumns>)
    QuantizedMatVecKernel(const __grid_constant__ MatVecLaunch launch, QuantizedRows x) {
  StagedMatVec<kType, kColumns>(launch, x, blockIdx.x);
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
