#include "kernels/matmul/head_matmul_cuda.h"

#include <cassert>

#include "kernels/matmul/async_copy.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/prefetch_line.cuh"
#include "kernels/quant/dequantize_tile.cuh"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr int kThreads = 128;
constexpr int kTile = 64;                 // rows and columns of weights that are expanded at a time
constexpr size_t kMostShared = 39 << 10;  // with some KiB beside it every GPU lets a block have it

struct HeadArguments {
  HeadMatrices weight;
  int64_t row_bytes;
  bool transposed;
  HeadVectors x;
  HeadVectors y;
  QuantizedRows quantized;  // y in 8 bits, if wanted
  int n;
  bool stages;  // MultiplyFewKernel: whether a block's weights find room in shared memory
};

// Group `group` of a row, as floats.
template <TensorType kType, bool kPlain>
__device__ __forceinline__ void ExpandGroup(const uint8_t* row, int64_t cols, int group,
                                            float (&values)[32]) {
  if constexpr (kPlain) {
    using Stored = typename PlainNumber<kType>::Stored;
    const Stored* stored = reinterpret_cast<const Stored*>(row);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int64_t column = group * 32 + i;
      values[i] = column < cols ? PlainNumber<kType>::ToFloat(stored[column]) : 0.0f;
    }
  } else {
    using Decoder = GroupDecoder<kType>;
    constexpr int kGroups = Decoder::kBlockElements / 32;
    Group32 decoded;
    Decoder::Decode(row + static_cast<int64_t>(group / kGroups) * Decoder::kBlockBytes,
                    group % kGroups, decoded);
#pragma unroll
    for (int i = 0; i < 32; ++i) values[i] = ValueOf<Decoder>(decoded, i);
  }
}

// Grid: (results / kTile, heads, n / tokens of a block). A thread computes kResults results of
// kTokens rows of x.
template <TensorType kType, bool kPlain, int kResults, int kTokens>
__global__ void __launch_bounds__(kThreads)
    MultiplyHeadsKernel(const __grid_constant__ HeadArguments a) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  constexpr int kAcross = kTile / kResults;  // threads with the same rows of x
  constexpr int kBlockTokens = kThreads / kAcross * kTokens;
  __shared__ float weights[kTile][kTile + 1];
  __shared__ float x[kBlockTokens][kTile];
  const int head = blockIdx.y;
  const int64_t first_result = int64_t{blockIdx.x} * kTile;
  const int first_token = blockIdx.z * kBlockTokens;
  const int64_t rows = a.weight.rows, cols = a.weight.cols;
  const int64_t summed = a.transposed ? rows : cols, results = a.transposed ? cols : rows;
  const uint8_t* matrix = a.weight.data + head * a.weight.head_bytes;
  const float* from = a.x.data + head * a.x.head_stride;
  const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;

  float sums[kResults][kTokens] = {};
  for (int64_t first = 0; first < summed; first += kTile) {
    // A thread expands half a row of the tile.
    const int own_row = threadIdx.x / 2, own_group = threadIdx.x % 2;
    const int64_t row = (a.transposed ? first : first_result) + own_row;
    const int64_t group = (a.transposed ? first_result : first) / 32 + own_group;
    float values[32] = {};
    if (row < rows && group * 32 < cols) {
      ExpandGroup<kType, kPlain>(matrix + row * a.row_bytes, cols, static_cast<int>(group), values);
    }
    __syncthreads();  // the last tiles have been read
#pragma unroll
    for (int i = 0; i < 32; ++i) weights[own_row][32 * own_group + i] = values[i];
    for (int i = threadIdx.x; i < kBlockTokens * kTile; i += kThreads) {
      const int token = first_token + i / kTile;
      const int64_t element = first + i % kTile;
      x[i / kTile][i % kTile] =
          token < a.n && element < summed ? from[token * a.x.row_stride + element] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < kTile; ++k) {
      float w[kResults], v[kTokens];
#pragma unroll
      for (int i = 0; i < kResults; ++i) {
        const int result = across + kAcross * i;
        w[i] = a.transposed ? weights[k][result] : weights[result][k];
      }
#pragma unroll
      for (int j = 0; j < kTokens; ++j) v[j] = x[down * kTokens + j][k];
#pragma unroll
      for (int i = 0; i < kResults; ++i) {
#pragma unroll
        for (int j = 0; j < kTokens; ++j) sums[i][j] = fmaf(w[i], v[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTokens; ++j) {
    const int64_t token = first_token + down * kTokens + j;
    if (token >= a.n) continue;
    float* to = a.y.data + token * a.y.row_stride + head * a.y.head_stride;
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      const int64_t result = first_result + across + kAcross * i;
      if (result < results) to[result] = sums[i][j];
    }
  }
}

// --- For as few rows of x as decoding has, which waits for the weights: the lanes of a warp expand
// a group of 32 weights each and take its part of the products straight away.

constexpr int kFewThreads = 256;
constexpr int kMostFew = 64;      // rows of x
constexpr int kBlockTokens = 4;   // of a block
constexpr int kGroupStride = 36;  // floats from group to group of x in shared memory: other banks

// How a block's threads are spread over rows of `groups` groups.
struct FewShape {
  int lanes;   // that share a row
  int rounds;  // of rows that the block makes
  int rows;    // of the block, a multiple of 32

  __host__ __device__ explicit FewShape(int groups) : lanes(1) {
    while (lanes < groups && lanes < 32) lanes *= 2;
    const int round_rows = kFewThreads / lanes;
    rounds = round_rows < 16 ? 32 / round_rows : 2;
    rows = rounds * round_rows;
  }
};
constexpr int kMostBlockRows = 2 * kFewThreads;

// Grid: (blocks of rows, heads, n / kBlockTokens).
template <TensorType kType, bool kPlain>
__global__ void __launch_bounds__(kFewThreads, 4)
    MultiplyFewKernel(const __grid_constant__ HeadArguments a) {
  LetLaterKernelsBegin();
  extern __shared__ __align__(16) float few[];  // (tokens, groups, kGroupStride)
  __shared__ float results[kBlockTokens][kMostBlockRows];
  const int head = blockIdx.y, lane = threadIdx.x % 32;
  const int64_t cols = a.weight.cols;
  const int groups = static_cast<int>((cols + 31) / 32);
  const FewShape shape(groups);
  const int round_rows = kFewThreads / shape.lanes;
  const int64_t first_row = int64_t{blockIdx.x} * shape.rows;
  const int own_row = static_cast<int>(threadIdx.x) / shape.lanes, own_group = lane % shape.lanes;
  const uint8_t* matrix = a.weight.data + head * a.weight.head_bytes;
  // The block's rows, which lie one behind the other, come nearer while earlier kernels run.
  const auto block_rows = static_cast<int>(min(int64_t{shape.rows}, a.weight.rows - first_row));
  const uint8_t* rows_from = matrix + first_row * a.row_bytes;
  const auto misalignment = static_cast<int>(reinterpret_cast<uintptr_t>(rows_from) & 15);
  const int bytes = misalignment + block_rows * static_cast<int>(a.row_bytes);
  uint8_t* const staged = reinterpret_cast<uint8_t*>(few + kBlockTokens * groups * kGroupStride);
  if (a.stages) {
    for (int i = 16 * threadIdx.x; i < bytes; i += 16 * kFewThreads) {
      AsyncCopy16(staged + i, rows_from - misalignment + i, true);
    }
    AsyncCommit();
    rows_from = staged + misalignment;
  } else {
    for (int i = kCacheLineBytes * threadIdx.x; i < bytes; i += kCacheLineBytes * kFewThreads) {
      PrefetchLine(rows_from - misalignment + i);
    }
  }
  AwaitEarlierKernels();
  const int first_token = blockIdx.z * kBlockTokens;
  const int tokens = min(kBlockTokens, a.n - first_token);
  const float* from = a.x.data + first_token * a.x.row_stride + head * a.x.head_stride;
  for (int i = threadIdx.x; i < tokens * groups * 32; i += kFewThreads) {
    const int token = i / (groups * 32), column = i % (groups * 32);
    few[(token * groups + column / 32) * kGroupStride + column % 32] =
        column < cols ? from[token * a.x.row_stride + column] : 0.0f;
  }
  AsyncWait<0>();
  __syncthreads();

#pragma unroll 1  // registers for other warps are worth more
  for (int round = 0; round < shape.rounds; ++round) {
    const int block_row = round * round_rows + own_row;
    float sums[kBlockTokens] = {};
    if (block_row < block_rows) {
      for (int group = own_group; group < groups; group += shape.lanes) {
        float w[32];
        ExpandGroup<kType, kPlain>(rows_from + block_row * a.row_bytes, cols, group, w);
#pragma unroll
        for (int token = 0; token < kBlockTokens; ++token) {
          if (token >= tokens) break;
          const float4* x =
              reinterpret_cast<const float4*>(few + (token * groups + group) * kGroupStride);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float4 v = x[i];
            sums[token] = fmaf(w[4 * i], v.x, sums[token]);
            sums[token] = fmaf(w[4 * i + 1], v.y, sums[token]);
            sums[token] = fmaf(w[4 * i + 2], v.z, sums[token]);
            sums[token] = fmaf(w[4 * i + 3], v.w, sums[token]);
          }
        }
      }
    }
#pragma unroll
    for (int token = 0; token < kBlockTokens; ++token) {
      if (token >= tokens) break;
      for (int distance = shape.lanes / 2; distance > 0; distance /= 2) {
        sums[token] += __shfl_xor_sync(0xffffffffu, sums[token], distance);
      }
      if (own_group == 0) results[token][block_row] = sums[token];
    }
  }
  __syncthreads();

  // A warp writes 32 results at a time.
  const int groups_of_block = shape.rows / 32;
  for (int i = threadIdx.x / 32; i < tokens * groups_of_block; i += kFewThreads / 32) {
    const int token = i / groups_of_block, block_row = i % groups_of_block * 32 + lane;
    const int64_t row = first_row + block_row;
    const float value = results[token][block_row];
    if (row < a.weight.rows) {
      a.y.data[(first_token + token) * a.y.row_stride + head * a.y.head_stride + row] = value;
    }
    if (a.quantized.q != nullptr && first_row + i % groups_of_block * 32 < a.weight.rows) {
      QuantizeGroup(value, first_token + token, (head * a.weight.rows + row) / 32, a.quantized);
    }
  }
}

// Of every lane's 32 values, the sum over the lanes of value i in lane i.
__device__ __forceinline__ float SumToLanes(float (&values)[32]) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int i = 0; i < distance; ++i) {
      const float given = upper ? values[i] : values[i + distance];
      const float kept = upper ? values[i + distance] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, given, distance);
    }
  }
  return values[0];
}

// The same for the transposed matrices: a warp has a group of columns, its lanes have rows. Grid:
// (groups / warps of a block, heads, n).
template <TensorType kType, bool kPlain>
__global__ void __launch_bounds__(kThreads)
    MultiplyFewTransposedKernel(const __grid_constant__ HeadArguments a) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int head = blockIdx.y, lane = threadIdx.x % 32;
  const int64_t group = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int64_t cols = a.weight.cols;
  if (group * 32 >= cols) return;
  const uint8_t* matrix = a.weight.data + head * a.weight.head_bytes;
  const float* x = a.x.data + blockIdx.z * a.x.row_stride + head * a.x.head_stride;
  float sums[32] = {};
  for (int64_t row = lane; row < a.weight.rows; row += 32) {
    float w[32];
    ExpandGroup<kType, kPlain>(matrix + row * a.row_bytes, cols, static_cast<int>(group), w);
    const float v = x[row];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] = fmaf(w[i], v, sums[i]);
  }
  const float sum = SumToLanes(sums);
  const int64_t column = group * 32 + lane;
  if (column < cols) {
    a.y.data[blockIdx.z * a.y.row_stride + head * a.y.head_stride + column] = sum;
  }
}

// Of a block's x, and of its weights.
size_t FewXBytes(int64_t cols) {
  return sizeof(float) * kBlockTokens * ((cols + 31) / 32) * kGroupStride;
}
size_t FewWeightBytes(const FewShape& shape, int64_t row_bytes) {
  return 16 + (shape.rows * row_bytes + 15) / 16 * 16;
}
bool IsFew(const HeadMatrices& weight, bool transposed, int n) {
  return n <= kMostFew && (transposed || FewXBytes(weight.cols) <= kMostShared);
}

template <TensorType kType, bool kPlain>
void Launch(const HeadArguments& a, cudaStream_t stream) {
  const auto blocks = [](int64_t count, int64_t of_block) {
    return static_cast<unsigned>((count + of_block - 1) / of_block);
  };
  const int64_t groups = blocks(a.weight.cols, 32);
  const unsigned heads = a.weight.heads;
  if (!IsFew(a.weight, a.transposed, a.n)) {
    constexpr int kResults = 4, kTokens = 4, kTileTokens = kThreads * kResults / kTile * kTokens;
    const int64_t results = a.transposed ? a.weight.cols : a.weight.rows;
    LaunchDependent(MultiplyHeadsKernel<kType, kPlain, kResults, kTokens>,
                    dim3(blocks(results, kTile), heads, blocks(a.n, kTileTokens)), kThreads, 0,
                    stream, a);
  } else if (a.transposed) {
    LaunchDependent(MultiplyFewTransposedKernel<kType, kPlain>,
                    dim3(blocks(groups, kThreads / 32), heads, a.n), kThreads, 0, stream, a);
  } else {
    const FewShape shape(static_cast<int>(groups));
    const size_t x_bytes = FewXBytes(a.weight.cols);
    const size_t weight_bytes = FewWeightBytes(shape, a.row_bytes);
    HeadArguments few = a;
    few.stages = x_bytes + weight_bytes <= kMostShared;
    LaunchDependent(MultiplyFewKernel<kType, kPlain>,
                    dim3(blocks(a.weight.rows, shape.rows), heads, blocks(a.n, kBlockTokens)),
                    kFewThreads, x_bytes + (few.stages ? weight_bytes : 0), stream, few);
  }
}

}  // namespace

bool CanQuantizeHeads(const HeadMatrices& weight, int n) {
  return IsFew(weight, /*transposed=*/false, n) && weight.rows % 32 == 0;
}

void MultiplyHeads(const HeadMatrices& weight, bool transposed, const HeadVectors& x, int n,
                   const HeadVectors& y, const QuantizedRows& quantized, cudaStream_t stream) {
  if (n <= 0 || weight.heads <= 0) return;
  assert(quantized.q == nullptr || (!transposed && CanQuantizeHeads(weight, n)));
  const auto row_bytes =
      static_cast<int64_t>(quant::RowBytes(quant::FormatOf(weight.type), weight.cols));
  const HeadArguments a = {weight, row_bytes, transposed, x, y, quantized, n, /*stages=*/false};
  switch (weight.type) {
    case TensorType::kF32:
      return Launch<TensorType::kF32, true>(a, stream);
    case TensorType::kF16:
      return Launch<TensorType::kF16, true>(a, stream);
    case TensorType::kBF16:
      return Launch<TensorType::kBF16, true>(a, stream);
    default:
      quant::VisitQuantizedType(weight.type,
                                [&]<class Type>(Type) { Launch<Type::kType, false>(a, stream); });
  }
}

}  // namespace gguf_offload::cuda
