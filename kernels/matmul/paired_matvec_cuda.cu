#include "kernels/matmul/paired_matvec_cuda.h"

#include <algorithm>
#include <utility>

#include "kernels/matmul/pair_products.cuh"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

// Rows of a warp: as many as leave registers enough for other warps.
template <TensorType kType, int kColumns>
constexpr int kPairedRows = kColumns == 1 && kType == TensorType::kQ4_K ? 4 : 2;

// Blocks first_block, first_block + step... of the `blocks` of a launch. Where there is more than
// one, warps do not share rows. A block's first weights are asked for before the last one's sums
// are finished.
template <TensorType kType, int kRows, int kColumns>
__device__ __forceinline__ void MultiplyPairs(const MatVecLaunch& launch, const QuantizedRows& x,
                                              unsigned first_block, unsigned step,
                                              unsigned blocks) {
  using Decoder = PairDecoder<kType>;
  LetLaterKernelsBegin();
  __shared__ PairScratch<Decoder, kMatVecWarps> scratch;
  const int pairs = static_cast<int>(launch.cols / 64);
  const int row_bytes = pairs / 4 * Decoder::kBlockBytes;
  const int lane = static_cast<int>(threadIdx.x % 32);
  MatVecTask task;
  PairRows<kType, kRows> rows;
  typename Decoder::Raw raw[kRows];
  int pair = 0;
  const auto begin = [&](unsigned block) {
    task = FindMatVecTask<kRows>(launch, block);
    const MatVecMatrix& matrix = launch.matrices[task.matrix].matrix;
    pair = 32 * task.part + lane;
    // Beyond the last row that one again; its products are not stored.
    const int64_t row = min(task.row, matrix.rows - 1);
    const int behind = static_cast<int>(min(matrix.rows - 1 - row, int64_t{kRows}));
    rows.begin = Decoder::Begin(
        matrix.weight + row * row_bytes + task.part * (8 * Decoder::kBlockBytes), lane);
#pragma unroll
    for (int i = 0; i < kRows; ++i) rows.offset[i] = min(i, behind) * row_bytes;
    if (pair < pairs) rows.Load(raw);
  };
  begin(first_block);
  AwaitEarlierKernels();  // with the first weights on their way
  const float squares = kColumns == 1 ? LoadSquares(x) : 0.0f;
#pragma unroll 1
  for (unsigned block = first_block; block < blocks; block += step) {
    float sums[kRows][kColumns] = {};
    while (pair < pairs) {
      const auto activations = [&](int column) {
        // Beyond the last column that one again.
        return LoadActivationPair<Decoder>(x, min(task.first_column + column, launch.n - 1), pair);
      };
      if constexpr (kColumns == 1) {
        const ActivationPair only = activations(0);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const typename Decoder::Pair weights(raw[i], lane, scratch.OfWarp());
          AddPairProducts<Decoder>(weights, only, sums[i][0]);
        }
      } else {
        static_assert(kRows == 2);
        const typename Decoder::Pair first(raw[0], lane, scratch.OfWarp());
        const typename Decoder::Pair second(raw[1], lane, scratch.OfWarp());
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          const ActivationPair these = activations(column);
          AddPairProducts<Decoder>(first, these, sums[0][column]);
          AddPairProducts<Decoder>(second, these, sums[1][column]);
        }
      }
      pair += 32 * launch.split;
      rows.Advance(launch.split);
      if (pair < pairs) rows.Load(raw);
    }
    const MatVecTask done = task;
    if (block + step < blocks) begin(block + step);
    FinishMatVec(launch, done, sums, ColumnFactors<kColumns>(x, squares));
  }
}

template <TensorType kType, int kColumns>
__global__ void __launch_bounds__(32 * kMatVecWarps, kColumns <= 4 ? 4 : 3)
    PairedMatVecKernel(const __grid_constant__ MatVecLaunch launch, unsigned blocks,
                       QuantizedRows x) {
  MultiplyPairs<kType, kPairedRows<kType, kColumns>, kColumns>(launch, x, blockIdx.x, gridDim.x,
                                                               blocks);
}

// Rows of a warp of those beside pairs, which then find room with them at once more often.
constexpr int kMixedRows = 4;

// Two launches with the same activations in one grid: `first` of kFirst, then `second` of kSecond,
// which may not have pairs of its own.
template <TensorType kFirst, TensorType kSecond, bool kSecondHasPairs>
__global__ void __launch_bounds__(32 * kMatVecWarps, 4)
    MixedMatVecKernel(const __grid_constant__ MatVecLaunch first, unsigned first_blocks,
                      const __grid_constant__ MatVecLaunch second, QuantizedRows x) {
  const unsigned second_blocks = gridDim.x - first_blocks;
  if (blockIdx.x < first_blocks) {
    MultiplyPairs<kFirst, kPairedRows<kFirst, 1>, 1>(first, x, blockIdx.x, first_blocks,
                                                     first_blocks);
  } else if constexpr (kSecondHasPairs) {
    MultiplyPairs<kSecond, kPairedRows<kSecond, 1>, 1>(second, x, blockIdx.x - first_blocks,
                                                       second_blocks, second_blocks);
  } else {
    StagedMatVec<kSecond, 1, kMixedRows>(second, x, blockIdx.x - first_blocks);
  }
}

template <TensorType kType>
void Launch(const MatVecLaunch& launch, unsigned blocks, const QuantizedRows& x,
            cudaStream_t stream) {
  // No more than there is room for at once: what is left is done by the same blocks, which have the
  // next weights under way when they are done with the last.
  constexpr unsigned kResidentBlocks = 4;
  unsigned grid = blocks;
  if (launch.split == 1) grid = std::min<unsigned>(grid, kResidentBlocks * Multiprocessors());
  const auto run = [&](auto kernel) {
    LaunchDependent(kernel, grid, 32 * kMatVecWarps, 0, stream, launch, blocks, x);
  };
  switch (RoundUpColumns(launch.n)) {
    case 1:
      return run(PairedMatVecKernel<kType, 1>);
    case 2:
      return run(PairedMatVecKernel<kType, 2>);
    case 4:
      return run(PairedMatVecKernel<kType, 4>);
    default:
      return run(PairedMatVecKernel<kType, 8>);
  }
}

template <TensorType kType>
unsigned Plan(std::span<const MatVecMatrix> matrices, int64_t cols, int n, MatVecLaunch& launch) {
  const int rows = RoundUpColumns(n) == 1 ? kPairedRows<kType, 1> : kPairedRows<kType, 2>;
  const int split_bits = ChoosePairedSplitBits(RowsOf(matrices), cols);
  return static_cast<unsigned>(PlanWarps(matrices, cols, n, rows, split_bits, launch));
}

}  // namespace

bool IsPairedMatVec(TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols) {
  return HasPairs(type) && std::all_of(matrices.begin(), matrices.end(), [&](const auto& matrix) {
           return HasPairRows(type, matrix.weight, cols);
         });
}

void PairedMatVec(TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                  const QuantizedRows& x, int n, cudaStream_t stream) {
  VisitPairedType(type, [&]<TensorType kType>() {
    MatVecLaunch launch{};
    const unsigned blocks = Plan<kType>(matrices, cols, n, launch);
    if (blocks > 0) Launch<kType>(launch, blocks, x, stream);
  });
}

bool MixedMatVec(std::span<const MatVecMatrix> first, TensorType first_type,
                 std::span<const MatVecMatrix> second, TensorType second_type, int64_t cols,
                 const QuantizedRows& x, int n, cudaStream_t stream) {
  if (second_type != TensorType::kQ6_K) {
    if (first_type != TensorType::kQ6_K) return false;
    std::swap(first, second);
    std::swap(first_type, second_type);
  }
  if (n != 1 || first_type == second_type || !IsPairedMatVec(first_type, first, cols)) return false;
  const auto run = [&]<TensorType kFirst, bool kSecondHasPairs>() {
    constexpr TensorType kSecond = TensorType::kQ6_K;
    MatVecLaunch launches[2] = {};
    const unsigned first_blocks = Plan<kFirst>(first, cols, n, launches[0]);
    const unsigned second_blocks =
        kSecondHasPairs ? Plan<kSecond>(second, cols, n, launches[1])
                        : static_cast<unsigned>(
                              PlanMatVec(second, cols, n, kChunkElements, launches[1], kMixedRows));
    LaunchDependent(MixedMatVecKernel<kFirst, kSecond, kSecondHasPairs>,
                    first_blocks + second_blocks, 32 * kMatVecWarps, 0, stream, launches[0],
                    first_blocks, launches[1], x);
  };
  const auto run_first = [&]<TensorType kFirst>() {
    if (IsPairedMatVec(second_type, second, cols)) {
      run.template operator()<kFirst, true>();
    } else {
      run.template operator()<kFirst, false>();
    }
  };
  if (first_type == TensorType::kQ4_K) {
    run_first.template operator()<TensorType::kQ4_K>();
  } else {
    run_first.template operator()<TensorType::kQ5_K>();
  }
  return true;
}

}  // namespace gguf_offload::cuda
