#include "kernels/matmul/head_matmul_cuda.h"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/quant/dequantize_tile.cuh"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr int kThreads = 128;
constexpr int kTile = 64;  // rows and columns of weights that are expanded at a time

struct HeadArguments {
  HeadMatrices weight;
  int64_t row_bytes;
  bool transposed;
  HeadVectors x;
  HeadVectors y;
  int n;
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
    for (int i = 0; i < 32; ++i) values[i] = ValueOf<Decoder::kHasOffset>(decoded, i);
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

template <TensorType kType, bool kPlain>
void Launch(const HeadArguments& a, cudaStream_t stream) {
  const int64_t results = a.transposed ? a.weight.cols : a.weight.rows;
  const auto grid = [&](int tokens) {
    return dim3(static_cast<unsigned>((results + kTile - 1) / kTile), a.weight.heads,
                (a.n + tokens - 1) / tokens);
  };
  if (a.n <= 4) {
    LaunchDependent(MultiplyHeadsKernel<kType, kPlain, 1, 2>, grid(4), kThreads, 0, stream, a);
  } else {
    LaunchDependent(MultiplyHeadsKernel<kType, kPlain, 4, 4>, grid(32), kThreads, 0, stream, a);
  }
}

}  // namespace

void MultiplyHeads(const HeadMatrices& weight, bool transposed, const HeadVectors& x, int n,
                   const HeadVectors& y, cudaStream_t stream) {
  if (n <= 0 || weight.heads <= 0) return;
  const auto row_bytes =
      static_cast<int64_t>(quant::RowBytes(quant::FormatOf(weight.type), weight.cols));
  const HeadArguments a = {weight, row_bytes, transposed, x, y, n};
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
