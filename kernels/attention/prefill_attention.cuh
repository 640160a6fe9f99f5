// The kernel of PrefillAttention, for the sources that instantiate it for one size of heads each.
//
// FlashAttention-2 (Dao 2023, arXiv:2307.08691): a warp keeps 16 rows of one head, their queries,
// scores and results in registers; the block's warps, which have a tile's 64 rows of one or two
// heads with the same keys, share keys and values in shared memory. Values are copied while scores
// are computed, and the next keys while values are added.
#ifndef KERNELS_ATTENTION_PREFILL_ATTENTION_CUH_
#define KERNELS_ATTENTION_PREFILL_ATTENTION_CUH_

#include "kernels/attention/attention_mma.cuh"
#include "kernels/attention/prefill_arguments.h"
#include "kernels/attention/shared_tile.cuh"

namespace gguf_offload::cuda {

inline constexpr int kHeadWarps = kPrefillTileRows / 16;  // with the rows of one head
// Scores may exceed what they are scaled by, by this power of two, before everything is rescaled.
inline constexpr float kSlack = 8;

template <int kDims, int kHeads>
struct PrefillShape {
  static constexpr int kKeys = kDims <= 128 ? 64 : 32;  // positions of a round
  // With large heads registers do not suffice for the queries.
  static constexpr bool kQueriesInRegisters = kDims <= 128;
  static constexpr int kThreads = 32 * kHeadWarps * kHeads;
  // Blocks that shall share a multiprocessor, for as many registers as they leave.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kBlocks = 2 / kHeads;
#else
  static constexpr int kBlocks = (kDims <= 64 ? 4 : kDims <= 128 ? 3 : 2) / kHeads;
#endif
  static constexpr int kTileBytes = kKeys * kDims * 2;
  static constexpr int kSharedBytes =
      2 * kTileBytes + (kQueriesInRegisters ? 0 : kHeads * kPrefillTileRows * kDims * 2);
};

// The left operand of dims 16 * k + {0..15} of rows g and g + 8 of a warp, of which `rows` exist.
template <bool kExact>
__device__ __forceinline__ uint4 QueryOperand(const float* q,  // (rows, key_dim), stride apart
                                              int64_t stride, int rows, int dim, float scale,
                                              int k) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = g + i % 2 * 8, from = 16 * k + i / 2 * 8 + 2 * t;
    float2 pair = make_float2(0, 0);
    if (row < rows && (kExact || from < dim)) {
      pair = *reinterpret_cast<const float2*>(q + row * stride + from);
    }
    packed[i] = PackHalves(pair.x * scale, pair.y * scale);
  }
  return make_uint4(packed[0], packed[1], packed[2], packed[3]);
}

// A warp's softmax, rows g and g + 8.
template <int kDims>
struct PrefillState {
  float reference[2];          // scores are scaled by 2^-reference
  float sum[2];                // the lane's own part
  float values[kDims / 8][4];  // [n]: dims 8 * n + 2 * t + {0, 1} of row g, then of row g + 8
};

// Turns scores (of dims 8 * n + 2 * t + {0, 1}, laid out as PrefillState::values) into weights.
template <int kDims, int kKeys>
__device__ __forceinline__ void WeighScores(float (&scores)[kKeys / 8][4],
                                            PrefillState<kDims>& state) {
  float largest[2] = {MinusInfinity(), MinusInfinity()};
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
    largest[0] = fmaxf(largest[0], fmaxf(scores[n][0], scores[n][1]));
    largest[1] = fmaxf(largest[1], fmaxf(scores[n][2], scores[n][3]));
  }
  largest[0] = MaxOverRow(largest[0]);
  largest[1] = MaxOverRow(largest[1]);
  const bool exceeds =
      largest[0] > state.reference[0] + kSlack || largest[1] > state.reference[1] + kSlack;
  if (__any_sync(0xffffffffu, exceeds)) {
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float reference = fmaxf(state.reference[i], largest[i]);
      // Of a row that has seen no key yet there is nothing to scale.
      factor[i] =
          state.reference[i] == MinusInfinity() ? 0.0f : Exp2(state.reference[i] - reference);
      state.reference[i] = reference;
      state.sum[i] *= factor[i];
    }
#pragma unroll
    for (int n = 0; n < kDims / 8; ++n) {
      state.values[n][0] *= factor[0];
      state.values[n][1] *= factor[0];
      state.values[n][2] *= factor[1];
      state.values[n][3] *= factor[1];
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float reference = state.reference[i] == MinusInfinity() ? 0.0f : state.reference[i];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      scores[n][2 * i] = Exp2(scores[n][2 * i] - reference);
      scores[n][2 * i + 1] = Exp2(scores[n][2 * i + 1] - reference);
      sum += scores[n][2 * i] + scores[n][2 * i + 1];
    }
    state.sum[i] += sum;
  }
}

// Scores of keys that a row does not see become minus infinity. `position`: of row g.
template <int kKeys>
__device__ __forceinline__ void MaskScores(int first_key, int position, int window,
                                           float (&scores)[kKeys / 8][4]) {
  const int t = threadIdx.x % 4;
  // One comparison does for both ends: keys ahead of the position are a huge distance behind it.
  const unsigned int span = window > 0 ? window : 0x7fffffff;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first_key + 8 * n + 2 * t + i % 2;
      const unsigned int behind = position + i / 2 * 8 - key;
      if (behind >= span) scores[n][i] = MinusInfinity();
    }
  }
}

// Writes a row's share of two neighbouring lanes' quads in 8 bits: v[n] are columns first_column +
// 8
// * n + 2 * t + {0, 1}. The same as QuantizeGroup. Four lanes call it for a row.
__device__ __forceinline__ void QuantizeQuad(const float2 (&v)[4], bool valid, int64_t row,
                                             int64_t first_column, const QuantizedRows& out) {
  const int t = threadIdx.x % 4;
  uint32_t bits = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    bits = max(bits, max(__float_as_uint(fabsf(v[n].x)), __float_as_uint(fabsf(v[n].y))));
  }
  bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
  bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
  const float largest = __uint_as_float(bits);
  const float scale = largest * (1.0f / 127.0f);
  const float inverse = largest >= 1e-35f ? 127.0f / largest : 0.0f;
  int sum = 0;
  uint16_t pairs[4];
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int low = max(-127, min(127, __float2int_rn(v[n].x * inverse)));
    const int high = max(-127, min(127, __float2int_rn(v[n].y * inverse)));
    sum += low + high;
    pairs[n] = static_cast<uint16_t>((low & 0xff) | (high & 0xff) << 8);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (!valid) return;
  int8_t* q = out.q + row * out.columns + first_column;
#pragma unroll
  for (int n = 0; n < 4; ++n) *reinterpret_cast<uint16_t*>(q + 8 * n + 2 * t) = pairs[n];
  if (t == 0) {
    out.scale[row * (out.columns / 32) + first_column / 32] = make_float2(scale, scale * sum);
  }
}

// Adds the sink, normalizes and writes a warp's rows, of which `rows` exist.
template <int kDims, bool kExact>
__device__ __forceinline__ void WritePrefilled(const PrefillArguments& a, int64_t first_row,
                                               int rows, int head, PrefillState<kDims>& state) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int dim = kExact ? kDims : a.layer.value_dim;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = SumOverRow(state.sum[i]), factor = 1;
    if (a.spec.sinks != nullptr) {
      const float sink = a.spec.sinks[head] * kLog2E;
      const float largest = fmaxf(state.reference[i], sink);
      factor = Exp2(state.reference[i] - largest);
      sum = sum * factor + Exp2(sink - largest);
    }
    factor /= sum;
    const int row = g + 8 * i;
    const bool valid = row < rows;
    const int64_t column = static_cast<int64_t>(head) * dim;
#pragma unroll
    for (int first = 0; first < kDims; first += 32) {
      float2 v[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float(&pair)[4] = state.values[first / 8 + n];
        v[n] = make_float2(pair[2 * i] * factor, pair[2 * i + 1] * factor);
        const int at = first + 8 * n + 2 * t;
        if (valid && (kExact || at < dim) && a.rows.out != nullptr) {
          float* out = a.rows.out + (first_row + row) * a.rows.out_stride + column + at;
          *reinterpret_cast<float2*>(out) = v[n];
        }
      }
      if (a.quantize && (kExact || first < dim)) {
        QuantizeQuad(v, valid, first_row + row, column + first, a.rows.quantized);
      }
    }
  }
}

// Grid: (heads / kHeads, tiles). kExact: key_dim and value_dim are kDims; else they are smaller or
// equal.
template <int kDims, int kHeads, bool kExact>
__global__ void __launch_bounds__(PrefillShape<kDims, kHeads>::kThreads,
                                  PrefillShape<kDims, kHeads>::kBlocks)
    PrefillKernel(const __grid_constant__ PrefillArguments a) {
  using Shape = PrefillShape<kDims, kHeads>;
  constexpr int kKeys = Shape::kKeys;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t key_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t value_tile = key_tile + Shape::kTileBytes;

  // The last tiles of a prompt have the most keys; they go first.
  const PrefillTile tile = a.tiles[gridDim.y - 1 - blockIdx.y];
  if (tile.rows <= 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int head = blockIdx.x * kHeads + warp / kHeadWarps;
  const int kv_head = head / (a.spec.heads / a.layer.kv_heads);
  const int warp_row = warp % kHeadWarps * 16;
  const int rows = min(16, tile.rows - warp_row);  // not positive: the warp only helps to copy
  const int first_row = tile.first_row + warp_row;
  const int first_position = tile.first_position + warp_row;
  const int key_dim = kExact ? kDims : a.layer.key_dim;
  const int value_dim = kExact ? kDims : a.layer.value_dim;
  const int window = a.spec.window;

  const int end = tile.first_position + tile.rows;
  const int begin =
      window > 0 && tile.first_position >= window ? tile.first_position - window + 1 : 0;
  const int32_t* pages = a.pages + tile.pages;
  int first_key = begin / kKeys * kKeys;
  CopyTile<kDims, kKeys, kExact>(key_tile, a.layer.keys, pages, a.layer.kv_heads, kv_head, key_dim,
                                 first_key, begin, end);

  const float* q = a.rows.q + static_cast<int64_t>(first_row) * a.rows.q_stride + head * key_dim;
  const float scale = a.spec.scale * kLog2E;
  uint4 queries[Shape::kQueriesInRegisters ? kDims / 16 : 1];
  uint4* stored_queries =
      reinterpret_cast<uint4*>(shared + 2 * Shape::kTileBytes) + warp * (kDims / 16) * 32 + lane;
#pragma unroll
  for (int k = 0; k < kDims / 16; ++k) {
    const uint4 operand = QueryOperand<kExact>(q, a.rows.q_stride, rows, key_dim, scale, k);
    if constexpr (Shape::kQueriesInRegisters) {
      queries[k] = operand;
    } else {
      stored_queries[k * 32] = operand;
    }
  }

  PrefillState<kDims> state = {};
  state.reference[0] = state.reference[1] = MinusInfinity();
  for (; first_key < end; first_key += kKeys) {
    // Keys have come, and nobody reads the last values any more.
    WaitForCopies();
    __syncthreads();
    CopyTile<kDims, kKeys, kExact>(value_tile, a.layer.values, pages, a.layer.kv_heads, kv_head,
                                   value_dim, first_key, begin, end);
    const int last_key = first_key + kKeys - 1;
    const bool sees = rows > 0 && first_key < first_position + rows &&
                      (window <= 0 || last_key > first_position - window);
    float scores[kKeys / 8][4] = {};
    if (sees) {
#pragma unroll
      for (int k = 0; k < kDims / 16; ++k) {
        if (!kExact && 16 * k >= key_dim) continue;
        uint4 query;
        if constexpr (Shape::kQueriesInRegisters) {
          query = queries[k];
        } else {
          query = stored_queries[k * 32];
        }
#pragma unroll
        for (int n = 0; n < kKeys / 16; ++n) {
          const uint4 keys = KeyOperands<kDims>(key_tile, n, k);
          MultiplyAdd(scores[2 * n], query, keys.x, keys.y);
          MultiplyAdd(scores[2 * n + 1], query, keys.z, keys.w);
        }
      }
      const int last_position = first_position + 15;
      if (last_key > first_position || (window > 0 && first_key <= last_position - window)) {
        MaskScores<kKeys>(first_key, first_position + g, window, scores);
      }
      WeighScores<kDims, kKeys>(scores, state);
    }
    // Values have come, and nobody reads these keys any more.
    WaitForCopies();
    __syncthreads();
    if (first_key + kKeys < end) {
      CopyTile<kDims, kKeys, kExact>(key_tile, a.layer.keys, pages, a.layer.kv_heads, kv_head,
                                     key_dim, first_key + kKeys, begin, end);
    }
    if (!sees) continue;
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const float(&low)[4] = scores[2 * k];
      const float(&high)[4] = scores[2 * k + 1];
      const uint4 weights = make_uint4(PackHalves(low[0], low[1]), PackHalves(low[2], low[3]),
                                       PackHalves(high[0], high[1]), PackHalves(high[2], high[3]));
#pragma unroll
      for (int n = 0; n < kDims / 16; ++n) {
        if (!kExact && 16 * n >= value_dim) continue;
        const uint4 values = ValueOperands<kDims>(value_tile, n, k);
        MultiplyAdd(state.values[2 * n], weights, values.x, values.y);
        MultiplyAdd(state.values[2 * n + 1], weights, values.z, values.w);
      }
    }
  }
  if (rows > 0) WritePrefilled<kDims, kExact>(a, first_row, rows, head, state);
}

template <int kDims, int kHeads>
void LaunchPrefill(const PrefillArguments& a, int n_tiles, cudaStream_t stream) {
  using Shape = PrefillShape<kDims, kHeads>;
  const bool exact = a.layer.key_dim == kDims && a.layer.value_dim == kDims;
  const auto kernel =
      exact ? PrefillKernel<kDims, kHeads, true> : PrefillKernel<kDims, kHeads, false>;
  if (Shape::kSharedBytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes);
  }
  const dim3 grid(a.spec.heads / kHeads, n_tiles);
  kernel<<<grid, Shape::kThreads, Shape::kSharedBytes, stream>>>(a);
}

template <int kDims>
void LaunchPrefillFor(const PrefillArguments& a, int n_tiles, cudaStream_t stream) {
  if constexpr (MostPrefillHeads(kDims) > 1) {
    if (a.block_heads == 2) return LaunchPrefill<kDims, 2>(a, n_tiles, stream);
  }
  LaunchPrefill<kDims, 1>(a, n_tiles, stream);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_PREFILL_ATTENTION_CUH_
