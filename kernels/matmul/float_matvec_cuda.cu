#include "kernels/matmul/float_matvec_cuda.h"

#include <algorithm>

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/plain_numbers.cuh"
#include "kernels/ops/block_sum.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/prefetch_line.cuh"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

// Where kernels find (n, cols) activations.
struct GivenColumns {
  static constexpr bool kOfNorm = false;
  const float* x;
  int64_t stride;  // in floats
};
struct ColumnsOfNorm {
  static constexpr bool kOfNorm = true;
  NormToCome norm;
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
  // Of F32 only.
  __device__ __forceinline__ void Multiply(const float (&factors)[kNumbers]) {
    if constexpr (kVector) {
      words.x = __float_as_uint(Value(0) * factors[0]);
      words.y = __float_as_uint(Value(1) * factors[1]);
      words.z = __float_as_uint(Value(2) * factors[2]);
      words.w = __float_as_uint(Value(3) * factors[3]);
    } else {
      number.bits = __float_as_uint(Value(0) * factors[0]);
    }
  }
};

template <int kNumbers>
__device__ __forceinline__ void LoadNumbers(const float* from, float (&x)[kNumbers]) {
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

// Elements from `col` on of a column, in two steps, so that several can be asked for at once.
template <class Columns, int kNumbers>
struct ColumnPiece {
  float x[kNumbers], more[kNumbers];

  __device__ __forceinline__ void Load(const Columns& columns, int64_t column, int col) {
    if constexpr (Columns::kOfNorm) {
      const NormToCome& norm = columns.norm;
      LoadNumbers(norm.residual + column * norm.residual_stride + col, x);
      if (norm.x != nullptr) LoadNumbers(norm.x + column * norm.x_stride + col, more);
    } else {
      LoadNumbers(columns.x + column * columns.stride + col, x);
    }
  }
  // What the norm's weights and the root mean square are yet to be multiplied with; adds to the
  // lane's `squares`.
  __device__ __forceinline__ void Finish(const Columns& columns, float& squares) {
    if constexpr (Columns::kOfNorm) {
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) {
        if (columns.norm.x != nullptr) x[i] += more[i];
        squares = fmaf(x[i], x[i], squares);
      }
    }
  }
};

// Rows' weights times those of the norm, if the columns are of one.
template <class Columns, class Piece, int kCount>
__device__ __forceinline__ void MultiplyByNorm(const Columns& columns, int col,
                                               Piece (&rows)[kCount]) {
  if constexpr (Columns::kOfNorm) {
    if (columns.norm.weight == nullptr) return;
    float factors[Piece::kNumbers];
    LoadNumbers(columns.norm.weight + col, factors);
#pragma unroll
    for (int i = 0; i < kCount; ++i) rows[i].Multiply(factors);
  }
}

// Adds up the squares of the warps that share the columns and stores what products with each column
// are to be multiplied by. The whole block calls it.
template <int kColumns>
__device__ __forceinline__ void MakeFactors(const MatVecLaunch& launch, float eps,
                                            const float (&squares)[kColumns],
                                            float (&factors)[kMatVecWarps][kColumns]) {
  __shared__ float parts[kMatVecWarps][kColumns];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    const float sum = SumOverWarp(squares[column]);
    if (lane == column) parts[warp][column] = sum;
  }
  __syncthreads();
  if (lane < kColumns) {
    const int first = warp / launch.split * launch.split;
    float sum = parts[first][lane];
    for (int part = 1; part < launch.split; ++part) sum += parts[first + part][lane];
    factors[warp][lane] = 1.0f / sqrtf(sum / launch.cols + eps);
  }
  __syncwarp();
}

template <class Number, int kColumns, bool kVector, class Columns>
__global__ void __launch_bounds__(32 * kMatVecWarps)
    FloatMatVecKernel(const __grid_constant__ MatVecLaunch launch,
                      const __grid_constant__ Columns columns) {
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
  float squares[kColumns] = {};  // of a norm

  // The first weights come while earlier kernels run, the next ones come nearer. Where there are
  // few rows, most of a processor's registers are free for them.
  constexpr int kAhead = kColumns > 1 || !kVector ? 0 : Columns::kOfNorm ? 16 : 8;
  constexpr int kAtOnce = 8;  // of the columns' pieces
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
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (first + j * step < cols) MultiplyByNorm(columns, first + j * step, ahead[j]);
    }
  }
  AwaitEarlierKernels();
  const auto add = [&](const Piece(&w)[kMatVecRows], int column,
                       ColumnPiece<Columns, kNumbers>& piece) {
    piece.Finish(columns, squares[column]);
#pragma unroll
    for (int i = 0; i < kMatVecRows; ++i) {
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) {
        sums[i][column] = fmaf(w[i].Value(k), piece.x[k], sums[i][column]);
      }
    }
  };
  if (task.row < matrix.rows) {
#pragma unroll
    for (int begin = 0; begin < kAhead; begin += kAtOnce) {
      ColumnPiece<Columns, kNumbers> pieces[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int col = first + (begin + j) * step;
        if (col < cols) pieces[j].Load(columns, task.first_column, col);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (first + (begin + j) * step < cols) add(ahead[begin + j], 0, pieces[j]);
      }
    }
#pragma unroll(kColumns == 1 ? 8 : 1)
    for (int col = first + kAhead * step; col < cols; col += step) {
      Piece w[kMatVecRows];
#pragma unroll
      for (int i = 0; i < kMatVecRows; ++i) w[i].Load(row + i * second + col);
      MultiplyByNorm(columns, col, w);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        // Beyond the last column that one again; its products are not stored.
        ColumnPiece<Columns, kNumbers> piece;
        piece.Load(columns, min(task.first_column + column, launch.n - 1), col);
        add(w, column, piece);
      }
    }
  }
  if constexpr (Columns::kOfNorm) {
    __shared__ float factors[kMatVecWarps][kColumns];
    MakeFactors(launch, columns.norm.eps, squares, factors);
    const float* const own = factors[threadIdx.x / 32];
    FinishMatVec(launch, task, sums, [&](int column) { return own[column - task.first_column]; });
  } else {
    FinishMatVec(launch, task, sums, [](int) { return 1.0f; });
  }
}

template <class Number, bool kVector, class Columns>
void LaunchKernel(std::span<const MatVecMatrix> matrices, int64_t cols, const Columns& columns,
                  int n, cudaStream_t stream) {
  MatVecLaunch launch{};
  constexpr int kChunkElements = 32 * WeightPiece<Number, kVector>::kNumbers;
  const int64_t blocks = PlanMatVec(matrices, cols, n, kChunkElements, launch);
  if (blocks == 0) return;
  const auto run = [&](auto kernel) {
    LaunchDependent(kernel, static_cast<unsigned>(blocks), 32 * kMatVecWarps, 0, stream, launch,
                    columns);
  };
  switch (RoundUpColumns(n)) {
    case 1:
      return run(FloatMatVecKernel<Number, 1, kVector, Columns>);
    case 2:
      return run(FloatMatVecKernel<Number, 2, kVector, Columns>);
    case 4:
      return run(FloatMatVecKernel<Number, 4, kVector, Columns>);
    default:
      return run(FloatMatVecKernel<Number, 8, kVector, Columns>);
  }
}

bool HasVectors(const GivenColumns& columns) { return SixteenByteRows(columns.x, columns.stride); }

bool HasVectors(const ColumnsOfNorm& columns) {
  const NormToCome& norm = columns.norm;
  return SixteenByteRows(norm.residual, norm.residual_stride) &&
         SixteenByteRows(norm.x, norm.x_stride) && SixteenByteRows(norm.weight);
}

template <class Number, class Columns>
void Multiply(std::span<const MatVecMatrix> matrices, int64_t cols, const Columns& columns, int n,
              cudaStream_t stream) {
  const bool vector =
      cols * static_cast<int64_t>(sizeof(Number)) % 16 == 0 && HasVectors(columns) &&
      std::all_of(matrices.begin(), matrices.end(),
                  [](const MatVecMatrix& matrix) { return SixteenByteRows(matrix.weight); });
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
  const GivenColumns columns{x, x_stride};
  switch (type) {
    case TensorType::kF32:
      return Multiply<F32Number>(matrices, cols, columns, n, stream);
    case TensorType::kF16:
      return Multiply<F16Number>(matrices, cols, columns, n, stream);
    case TensorType::kBF16:
      return Multiply<BF16Number>(matrices, cols, columns, n, stream);
    default:
      return;
  }
}

void FloatMatVecOfNorm(std::span<const MatVecMatrix> matrices, int64_t cols, const NormToCome& norm,
                       int n, cudaStream_t stream) {
  Multiply<F32Number>(matrices, cols, ColumnsOfNorm{norm}, n, stream);
}

}  // namespace gguf_offload::cuda
