#include "kernels/matmul/paired_matvec_cuda.h"

#include <algorithm>
#include <cassert>

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/quantized_matvec.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/swiglu.cuh"
#include "kernels/ops/vector_access.h"
#include "kernels/quant/decode_pair.cuh"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

// Rows of a warp: as many as leave registers enough for other warps.
template <TensorType kType, int kColumns>
constexpr int kPairedRows = kColumns == 1 && kType == TensorType::kQ4_K ? 4 : 2;

// The activations of one column for a pair of groups.
struct ActivationPair {
  int4 q[4];
  float4 scale;  // QuantizedRows::scale of both groups
};

template <class Decoder>
__device__ __forceinline__ ActivationPair LoadActivationPair(const QuantizedRows& x, int column,
                                                             int pair) {
  ActivationPair out;
  const int first = Decoder::FirstGroup(pair);
  const int4* q = reinterpret_cast<const int4*>(x.q + column * x.columns) + 2 * first;
  const float2* scale = x.scale + column * (x.columns / 32) + first;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.q[i] = q[i / 2 * (2 * Decoder::kGroupDistance) + i % 2];
  if constexpr (Decoder::kGroupDistance == 1) {
    out.scale = *reinterpret_cast<const float4*>(scale);
  } else {
    const float2 lower = scale[0], upper = scale[Decoder::kGroupDistance];
    out.scale = make_float4(lower.x, lower.y, upper.x, upper.y);
  }
  return out;
}

// Where a lane reads weights of the rows: a turn, then every step-th behind it.
template <TensorType kType, int kRows>
struct PairRows {
  using Decoder = PairDecoder<kType>;
  using Raw = typename Decoder::Raw;

  const uint8_t* begin;    // of the first row
  uint32_t offset[kRows];  // of the others from there

  __device__ __forceinline__ void Load(Raw (&raw)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) Decoder::Load(begin + offset[i], threadIdx.x % 32, raw[i]);
  }
  __device__ __forceinline__ void Advance(int step) { begin += step * (8 * Decoder::kBlockBytes); }
};

// What a warp passes weights on in.
template <class Decoder, int kWarps>
struct PairScratch {
  __align__(16) uint8_t bytes[kWarps][Decoder::kScratchBytes > 0 ? Decoder::kScratchBytes : 16];

  __device__ __forceinline__ uint8_t* OfWarp() { return bytes[threadIdx.x / 32]; }
};

// Adds the pair's products with a column to `sum`.
template <class Decoder>
__device__ __forceinline__ void AddPairProducts(const typename Decoder::Pair& pair,
                                                const ActivationPair& x, float& sum) {
  const int xs[2][8] = {
      {x.q[0].x, x.q[0].y, x.q[0].z, x.q[0].w, x.q[1].x, x.q[1].y, x.q[1].z, x.q[1].w},
      {x.q[2].x, x.q[2].y, x.q[2].z, x.q[2].w, x.q[3].x, x.q[3].y, x.q[3].z, x.q[3].w}};
  const float x_scale[2] = {x.scale.x, x.scale.z};
  if constexpr (Decoder::kTwoScales) {
    int products[2][2] = {};
#pragma unroll
    for (int w = 0; w < 8; ++w) {
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        int& product = products[group][w / 4];
        product = Dot4<false>(pair.Word(group, w), xs[group][w], product);
      }
    }
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      const float product = fmaf(pair.scale(group, 0), static_cast<float>(products[group][0]),
                                 pair.scale(group, 1) * static_cast<float>(products[group][1]));
      sum = fmaf(x_scale[group], product, sum);
    }
  } else {
    int products[2] = {};
#pragma unroll
    for (int w = 0; w < 8; ++w) {
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        products[group] = Dot4<true>(pair.Word(group, w), xs[group][w], products[group]);
      }
    }
    const PairScales& scales = pair.scales();
    sum = fmaf(x_scale[0] * scales.scale[0], static_cast<float>(products[0]), sum);
    sum = fmaf(x_scale[1] * scales.scale[1], static_cast<float>(products[1]), sum);
    sum = fmaf(scales.offset[0], x.scale.y, sum);
    sum = fmaf(scales.offset[1], x.scale.w, sum);
  }
}

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
    StagedMatVec<kSecond, 1>(second, x, blockIdx.x - first_blocks);
  }
}

// A block makes a group of 32 outputs, a warp two a pass: rows of both matrices at once.
constexpr int kGatedWarps = 4;
constexpr int kGatedPasses = 32 / (2 * kGatedWarps);
// Of a processor: as many as have registers for their weights.
template <TensorType kType>
constexpr int kGatedBlocks = kType == TensorType::kQ4_K ? 3 : 2;

// A lane's weights for two outputs: of the pair of groups that it is at, two rows of each matrix.
template <TensorType kType>
struct GatedWeights {
  typename PairDecoder<kType>::Raw gate[2], up[2];
};

// Weights are on their way for two turns at a time: with those of one, the memory rests while
// blocks that are done wait for the others.
template <TensorType kType>
__global__ void __launch_bounds__(32 * kGatedWarps, kGatedBlocks<kType>)
    GatedMatVecKernel(const __grid_constant__ GatedMatVec a, QuantizedRows x) {
  using Decoder = PairDecoder<kType>;
  LetLaterKernelsBegin();
  __shared__ float results[32];
  __shared__ PairScratch<Decoder, kGatedWarps> scratch;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int pairs = static_cast<int>(x.columns / 64);
  const int row_bytes = pairs / 4 * Decoder::kBlockBytes;

  PairRows<kType, 2> gate, up;
  gate.offset[0] = up.offset[0] = 0;
  gate.offset[1] = up.offset[1] = row_bytes;
  int asked_pass = 0, asked_pair = lane;
  const auto begin_pass = [&] {
    const int64_t row = int64_t{blockIdx.x} * 32 + 2 * (kGatedPasses * warp + asked_pass);
    gate.begin = Decoder::Begin(a.gate + row * row_bytes, lane);
    up.begin = Decoder::Begin(a.up + row * row_bytes, lane);
  };
  const auto ask = [&](GatedWeights<kType>& weights) {
    if (asked_pass == kGatedPasses) return;
    if (asked_pair < pairs) {
      gate.Load(weights.gate);
      up.Load(weights.up);
    }
    asked_pair += 32;
    gate.Advance(1);
    up.Advance(1);
    if (asked_pair - lane < pairs) return;
    asked_pair = lane;
    ++asked_pass;
    begin_pass();
  };
  float gate_sums[2] = {}, up_sums[2] = {}, squares = 0, factor = 1;
  int pass = 0, pair = lane;
  const auto take = [&](GatedWeights<kType>& weights) {
    if (pair < pairs) {
      const ActivationPair activations = LoadActivationPair<Decoder>(x, 0, pair);
      const auto add = [&](const typename Decoder::Raw& raw, float& sum) {
        const typename Decoder::Pair weights(raw, lane, scratch.OfWarp());
        AddPairProducts<Decoder>(weights, activations, sum);
      };
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        add(weights.gate[i], gate_sums[i]);
        add(weights.up[i], up_sums[i]);
      }
    }
    ask(weights);
    pair += 32;
    if (pair - lane < pairs) return;
    if (pass == 0) factor = RowFactor(x, squares);  // which may have taken a while to come
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float value =
          SwiGluStep()(factor * SumOverWarp(gate_sums[i]), factor * SumOverWarp(up_sums[i]));
      if (lane == i) results[2 * (kGatedPasses * warp + pass) + i] = value;
      gate_sums[i] = up_sums[i] = 0;
    }
    pair = lane;
    ++pass;
  };

  GatedWeights<kType> first, second;
  begin_pass();
  ask(first);
  ask(second);
  AwaitEarlierKernels();  // with the first weights on their way
  squares = LoadSquares(x);
#pragma unroll 1
  while (pass < kGatedPasses) {
    take(first);
    if (pass < kGatedPasses) take(second);
  }
  __syncthreads();
  if (warp != 0) return;
  a.out[int64_t{blockIdx.x} * 32 + lane] = results[lane];
  QuantizeGroup(results[lane], 0, blockIdx.x, a.quantized);
}

// A block makes a group of 32 outputs, a warp four. kSplit: what PairedMatVec would split the rows'
// columns into; the parts' sums are added up as there, to the same bits.
constexpr int kNormedWarps = 8;

template <TensorType kType, int kSplit>
__global__ void __launch_bounds__(32 * kNormedWarps)
    NormedMatVecKernel(const __grid_constant__ NormedMatVec a, QuantizedRows x) {
  using Decoder = PairDecoder<kType>;
  LetLaterKernelsBegin();
  constexpr int kRows = 32 / kNormedWarps;
  __shared__ float results[32];
  __shared__ PairScratch<Decoder, kNormedWarps> scratch;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int pairs = static_cast<int>(x.columns / 64);
  const int row_bytes = pairs / 4 * Decoder::kBlockBytes;
  PairRows<kType, kRows> rows;
  rows.begin =
      Decoder::Begin(a.weight + (int64_t{blockIdx.x} * 32 + kRows * warp) * row_bytes, lane);
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows.offset[i] = i * row_bytes;
  int asked = lane, pair = lane;
  const auto ask = [&](typename Decoder::Raw(&raw)[kRows]) {
    if (asked < pairs) rows.Load(raw);
    rows.Advance(1);
    asked += 32;
  };
  const auto take = [&](typename Decoder::Raw(&raw)[kRows], float(&sums)[kRows]) {
    if (pair < pairs) {
      const ActivationPair activations = LoadActivationPair<Decoder>(x, 0, pair);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const typename Decoder::Pair weights(raw[i], lane, scratch.OfWarp());
        AddPairProducts<Decoder>(weights, activations, sums[i]);
      }
    }
    ask(raw);
    pair += 32;
  };
  typename Decoder::Raw first[kRows], second[kRows];
  ask(first);
  ask(second);
  const int64_t row = int64_t{blockIdx.x} * 32 + lane;
  const float bias = a.bias != nullptr ? a.bias[row] : 0.0f;
  const float weight = a.norm != nullptr ? a.norm[row] : 1.0f;
  AwaitEarlierKernels();  // with the first weights on their way
  const float squares = LoadSquares(x), residual = a.residual[row];
  float sums[kSplit][kRows] = {};
#pragma unroll 1
  while (pair - lane < pairs) {
#pragma unroll
    for (int part = 0; part < kSplit; part += 2) {
      take(first, sums[part]);
      take(second, sums[kSplit == 1 ? 0 : part + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float sum = SumOverWarp(sums[0][i]);
#pragma unroll
    for (int part = 1; part < kSplit; ++part) sum += SumOverWarp(sums[part][i]);
    if (lane == i) results[kRows * warp + i] = sum;
  }
  __syncthreads();
  if (warp != 0) return;
  const float value = residual + fmaf(results[lane], RowFactor(x, squares), bias);
  a.residual[row] = value;
  QuantizeGroup(value * weight, 0, blockIdx.x, a.quantized);
  const float square = SumOverWarp(value * value);
  if (lane == 0) a.squares[blockIdx.x] = square;
}

int Multiprocessors() {
  static const int count = [] {
    int device = 0, multiprocessors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    return multiprocessors;
  }();
  return count;
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

// Calls `run` with the type as a template's argument.
template <class Run>
void VisitPairedType(TensorType type, const Run& run) {
  if (type == TensorType::kQ4_K) {
    run.template operator()<TensorType::kQ4_K>();
  } else if (type == TensorType::kQ5_K) {
    run.template operator()<TensorType::kQ5_K>();
  } else {
    run.template operator()<TensorType::kQ6_K>();
  }
}

// Whether rows can be read in pieces of 16 bytes.
bool HasPairRows(TensorType type, const uint8_t* weight, int64_t cols) {
  return SixteenByteRows(weight) && (!NeedsWholeTurns(type) || cols % kTurnElements == 0);
}

// The logarithm of how many warps share rows: as many as find room at once on a large GPU (132
// processors with 16 warps of four rows each), so that no processor waits for a second round.
int ChoosePairedSplitBits(int64_t rows, int64_t cols) {
  constexpr int64_t kMostWarps = 132 * 16;
  const int64_t chunks = (cols + kTurnElements - 1) / kTurnElements;
  int bits = 0;
  while (1 << bits < kMatVecWarps && 2 << bits <= chunks &&
         (rows / 4) << (bits + 1) <= kMostWarps) {
    ++bits;
  }
  return bits;
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
        kSecondHasPairs
            ? Plan<kSecond>(second, cols, n, launches[1])
            : static_cast<unsigned>(PlanMatVec(second, cols, n, kChunkElements, launches[1]));
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

bool CanMultiplyNormed(TensorType type, const uint8_t* weight, int64_t rows, int64_t cols) {
  // Blocks that had to wait for others would lose more than a norm takes.
  return (type == TensorType::kQ4_K || type == TensorType::kQ6_K) &&
         HasPairRows(type, weight, cols) && rows % 32 == 0 && rows / 32 <= Multiprocessors();
}

void MultiplyNormed(TensorType type, const NormedMatVec& a, const QuantizedRows& x,
                    cudaStream_t stream) {
  assert(CanMultiplyNormed(type, a.weight, a.rows, x.columns));
  const auto run = [&](auto kernel) {
    PreferCache(kernel);  // a processor has one block
    LaunchDependent(kernel, static_cast<unsigned>(a.rows / 32), 32 * kNormedWarps, 0, stream, a, x);
  };
  const auto run_type = [&]<TensorType kType>() {
    switch (ChoosePairedSplitBits(a.rows, x.columns)) {
      case 0:
        return run(NormedMatVecKernel<kType, 1>);
      case 1:
        return run(NormedMatVecKernel<kType, 2>);
      default:
        return run(NormedMatVecKernel<kType, 4>);
    }
  };
  if (type == TensorType::kQ4_K) return run_type.template operator()<TensorType::kQ4_K>();
  run_type.template operator()<TensorType::kQ6_K>();
}

bool GateMatVec(TensorType type, const GatedMatVec& a, const QuantizedRows& x,
                cudaStream_t stream) {
  // Only where QuantizedMatVec would not let warps share rows, so that both give the same bits.
  if (!HasPairs(type) || !HasPairRows(type, a.gate, x.columns) ||
      !HasPairRows(type, a.up, x.columns) || a.rows % 32 != 0 ||
      ChoosePairedSplitBits(2 * a.rows, x.columns) != 0) {
    return false;
  }
  VisitPairedType(type, [&]<TensorType kType>() {
    if (PairDecoder<kType>::kScratchBytes == 0) PreferCache(GatedMatVecKernel<kType>);
    LaunchDependent(GatedMatVecKernel<kType>, static_cast<unsigned>(a.rows / 32), 32 * kGatedWarps,
                    0, stream, a, x);
  });
  return true;
}

}  // namespace gguf_offload::cuda
