#include "kernels/matmul/float_matvec_cuda.h"
#include "kernels/ops/dependent_launch.cuh"

#include <algorithm>

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/plain_numbers.cuh"
#include "kernels/ops/prefetch_line.cuh"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

struct FloatColumns {
  const float* x;  // (n, cols)
  int64_t stride;  // in floats
};

// A lane's 16 bytes of a row, or a single number of it.
template <class Number, bool kVector>
struct WeightPiece {
  static constexpr int kNumbers = kVector ? 4 * Number::kPerWord : 1;
  uint4 words;
  Number number;

  __device__ __forceinline__ void Load(const Number* from) {
    if constexpr (kVector) {
      words = __ldcs(reinterpret_cast<const uint4*>(from));  // read once: streamed
    } else {
      number = *from;
    }
  }
  __device__ __forceinline__ float Value(int i) const {
    if constexpr (kVector) {
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
      return NumberOfWord<Number>(word[i / Number::kPerWord], i % Number::kPerWord);
    } else {
      return ToFloat(number);
    }
  }
};

template <int kNumbers>
__device__ __forceinline__ void LoadColumn(const float* from, float (&x)[kNumbers]) {
  if constexpr (kNumbers == 1) {
    x[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < kNumbers; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      x[i] = four.x;
      x[i + 1] = four.y;
      x[i + 2] = four.z;
      x[i + 3] = four.w;
    }
  }
}

template <class Number, int kColumns, bool kVector>
__global__ void __launch_bounds__(32 * kMatVecWarps)
    FloatMatVecKernel(const __grid_constant__ MatVecLaunch launch, FloatColumns columns) {
  LetLaterKernelsBegin();
  using Piece = WeightPiece<Number, kVector>;
  constexpr int kNumbers = Piece::kNumbers;
  const MatVecTask task = FindMatVecTask(launch, blockIdx.x);
  const MatVecMatrix& matrix = launch.matrices[task.matrix].matrix;
  const Number* row = reinterpret_cast<const Number*>(matrix.weight) + task.row * launch.cols;
  const int64_t second = task.row + 1 < matrix.rows ? launch.cols : 0;
  const int first = (task.part * 32 + static_cast<int>(threadIdx.x % 32)) * kNumbers;
  const int step = 32 * kNumbers * launch.split;
  const int cols = static_cast<int>(launch.cols);
  float sums[kMatVecRows][kColumns] = {};

  // The first weights come while earlier kernels run, the next ones come nearer.
  constexpr int kAhead = kColumns == 1 && kVector ? 8 : 0;
  constexpr int kMostPrefetched = 16;
  Piece ahead[kAhead + 1][kMatVecRows];
  if (task.row < matrix.rows) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int col = first + j * step;
#pragma unroll
      for (int i = 0; i < kMatVecRows; ++i) {
        if (col < cols) ahead[j][i].Load(row + i * second + col);
      }
    }
    const int end = min(cols, first + kMostPrefetched * step);
    for (int col = first + kAhead * step; col < end && threadIdx.x % 8 == 0; col += step) {
#pragma unroll
      for (int i = 0; i < kMatVecRows; ++i) PrefetchLine(row + i * second + col);
    }
  }
  AwaitEarlierKernels();
  const auto add = [&](int col, const Piece(&w)[kMatVecRows]) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      // Beyond the last column that one again; its products are not stored.
      const int from = min(task.first_column + column, launch.n - 1);
      float x[kNumbers];
      LoadColumn(columns.x + from * columns.stride + col, x);
#pragma unroll
      for (int i = 0; i < kMatVecRows; ++i) {
#pragma unroll
        for (int k = 0; k < kNumbers; ++k) {
          sums[i][column] = fmaf(w[i].Value(k), x[k], sums[i][column]);
        }
      }
    }
  };
  if (task.row < matrix.rows) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (first + j * step < cols) add(first + j * step, ahead[j]);
    }
#pragma unroll(kColumns == 1 ? 8 : 1)
    for (int col = first + kAhead * step; col < cols; col += step) {
      Piece w[kMatVecRows];
#pragma unroll
      for (int i = 0; i < kMatVecRows; ++i) w[i].Load(row + i * second + col);
      add(col, w);
    }
  }
  FinishMatVec(launch, task, sums);
}

template <class Number, bool kVector>
void LaunchKernel(std::span<const MatVecMatrix> matrices, int64_t cols, const FloatColumns& columns,
                  int n, cudaStream_t stream) {
  MatVecLaunch launch{};
  constexpr int kChunkElements = 32 * WeightPiece<Number, kVector>::kNumbers;
  const int64_t blocks = PlanMatVec(matrices, cols, n, kChunkElements, launch);
  if (blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks));
  constexpr int kThreads = 32 * kMatVecWarps;
  switch (RoundUpColumns(n)) {
    case 1:
      LaunchDependent(FloatMatVecKernel<Number, 1, kVector>, grid, kThreads, 0, stream, launch,
                      columns);
      break;
    case 2:
      LaunchDependent(FloatMatVecKernel<Number, 2, kVector>, grid, kThreads, 0, stream, launch,
                      columns);
      break;
    case 4:
      LaunchDependent(FloatMatVecKernel<Number, 4, kVector>, grid, kThreads, 0, stream, launch,
                      columns);
      break;
    default:
      LaunchDependent(FloatMatVecKernel<Number, 8, kVector>, grid, kThreads, 0, stream, launch,
                      columns);
  }
}

template <class Number>
void LaunchForNumber(std::span<const MatVecMatrix> matrices, int64_t cols,
                     const FloatColumns& columns, int n, cudaStream_t stream) {
  const bool vector = cols * static_cast<int64_t>(sizeof(Number)) % 16 == 0 &&
                      SixteenByteRows(columns.x, columns.stride) &&
                      std::all_of(matrices.begin(), matrices.end(), [](const MatVecMatrix& matrix) {
                        return SixteenByteRows(matrix.weight);
                      });
  if (vector) {
    LaunchKernel<Number, true>(matrices, cols, columns, n, stream);
  } else {
    LaunchKernel<Number, false>(matrices, cols, columns, n, stream);
  }
}

}  // namespace

bool IsFloatMatVecType(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

void FloatMatVec(TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                 const float* x, int64_t x_stride, int n, cudaStream_t stream) {
  const FloatColumns columns{x, x_stride};
  switch (type) {
    case TensorType::kF32:
      LaunchForNumber<F32Number>(matrices, cols, columns, n, stream);
      break;
    case TensorType::kF16:
      LaunchForNumber<F16Number>(matrices, cols, columns, n, stream);
      break;
    case TensorType::kBF16:
      LaunchForNumber<BF16Number>(matrices, cols, columns, n, stream);
      break;
    default:
      break;
  }
}

}  // namespace gguf_offload::cuda
