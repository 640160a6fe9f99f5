#include "kernels/matmul/fused_matvec_cuda.h"

#include <cassert>

#include "kernels/matmul/pair_products.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/swiglu.cuh"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

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

}  // namespace

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

}  // namespace gguf_offload::cuda
