// The kernel of DecodeAttention, for the sources that instantiate it for one size of heads each.
//
// A block reads a share of the positions of one key-value head once and serves the query heads that
// use it, as the rows of tensor core products: not for their speed, but because they take keys and
// values from registers as they come from memory, 16 bytes a lane, and need few shuffles. Scores
// are Q K^T with heads as rows; the queries' rounding to float16 is undone by a second set of rows
// with what was rounded away, where there are at most 8 heads. Values are summed as V^T P^T, whose
// right operand has the very layout in which the scores come out (FlashDecoding's split over
// positions; Dao et al. 2023). A rotation that goes before is done here as well: by each block for
// its queries, and for the row's own key and value by the block that they belong to.
#ifndef KERNELS_ATTENTION_DECODE_ATTENTION_CUH_
#define KERNELS_ATTENTION_DECODE_ATTENTION_CUH_

#include "kernels/attention/attention_mma.cuh"
#include "kernels/attention/decode_arguments.h"
#include "kernels/attention/decode_merge.cuh"
#include "kernels/attention/prefetch_pages.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/rotate_head.cuh"

namespace gguf_offload::cuda {

inline constexpr int kDecodeKeys = 16;  // that a warp handles at a time

// The positions of one block: [begin, end), in share `split` of `active`. Those before cached_end
// are in the cache; the one behind, if there is one, the block makes itself.
struct DecodeShare {
  int begin;
  int end;
  int cached_end;
  int split;
  int active;

  __device__ __forceinline__ bool MakesLast() const { return cached_end < end; }
};

__device__ __forceinline__ DecodeShare FindDecodeShare(const DecodeArguments& a, int position) {
  const int window = a.spec.window;
  const int begin = window > 0 && position >= window ? position - window + 1 : 0;
  const int first_page = begin / kPageTokens;
  const int pages = position / kPageTokens + 1 - first_page;
  const int share = max(a.splits.min_pages, (pages + a.splits.splits - 1) / a.splits.splits);
  DecodeShare result;
  result.split = blockIdx.x;
  result.active = (pages + share - 1) / share;
  const int page = first_page + result.split * share;
  result.begin = max(begin, page * kPageTokens);
  result.end = min(position + 1, (page + share) * kPageTokens);
  result.cached_end = a.rotation.rows > 0 ? min(position, result.end) : result.end;
  return result;
}

// The unnormalized softmax of a warp. kTiles: sets of 8 heads.
template <int kDims, int kTiles>
struct DecodeState {
  float largest[kTiles];  // of head 8 * tile + g, as are the sums, which are the lane's own
  float sum[kTiles];
  // [tile][m]: dims 64 * (m / 4) + 8 * g + 2 * (m % 4) + {0, 1}; elements 0 and 2 of head 8 * tile
  // + 2 * t, elements 1 and 3 of the head behind it.
  float values[kTiles][kDims / 16][4];
};

// Keys of a warp: [n][c] are elements 32 * c + 8 * t + {0..7} of key 8 * n + g.
template <int kDims>
struct DecodeKeys {
  uint4 words[2][kDims / 32];
};

// Values of a warp: [i][c] are elements 64 * c + 8 * g + {0..7} of key 2 * t + {0, 1, 8, 9}[i].
template <int kDims>
struct DecodeValues {
  uint4 words[4][kDims / 64];
};

template <int kDims, bool kExact>
__device__ __forceinline__ void LoadKeys(const KvLayer& layer, int64_t page, int kv_head,
                                         int first_key, const DecodeShare& share,
                                         DecodeKeys<kDims>& keys) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int dim = kExact ? kDims : layer.key_dim;
  const __half* base = layer.keys + (page * layer.kv_heads + kv_head) * kPageTokens * dim;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int key = first_key + 8 * n + g;
    const bool cached = key >= share.begin && key < share.cached_end;
    const __half* row = base + key % kPageTokens * dim;
#pragma unroll
    for (int c = 0; c < kDims / 32; ++c) {
      keys.words[n][c] = make_uint4(0, 0, 0, 0);
      if (cached) keys.words[n][c] = LoadEight<kExact>(row, 32 * c + 8 * t, dim);
    }
  }
}

template <int kDims, bool kExact>
__device__ __forceinline__ void LoadValues(const KvLayer& layer, int64_t page, int kv_head,
                                           int first_key, const DecodeShare& share,
                                           DecodeValues<kDims>& values) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int dim = kExact ? kDims : layer.value_dim;
  const __half* base = layer.values + (page * layer.kv_heads + kv_head) * kPageTokens * dim;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = first_key + 2 * t + i % 2 + 8 * (i / 2);
    // What is not visible is not read: zero times a NaN left there would be NaN.
    const bool cached = key >= share.begin && key < share.cached_end;
    const __half* row = base + key % kPageTokens * dim;
#pragma unroll
    for (int c = 0; c < kDims / 64; ++c) {
      values.words[i][c] = make_uint4(0, 0, 0, 0);
      if (cached) values.words[i][c] = LoadEight<kExact>(row, 64 * c + 8 * g, dim);
    }
  }
}

// The key and value that a block makes itself, zeros beyond their ends.
template <int kDims>
struct alignas(16) DecodeFresh {
  __half key[kDims];
  __half value[kDims];
};

// Puts them to their place among those of a warp, which begin at position first_key.
template <int kDims>
__device__ __forceinline__ void PlaceFresh(const DecodeFresh<kDims>& fresh, int position,
                                           int first_key, DecodeKeys<kDims>& keys,
                                           DecodeValues<kDims>& values) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if (first_key + 8 * n + g != position) continue;
#pragma unroll
    for (int c = 0; c < kDims / 32; ++c) {
      keys.words[n][c] = *reinterpret_cast<const uint4*>(fresh.key + 32 * c + 8 * t);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first_key + 2 * t + i % 2 + 8 * (i / 2) != position) continue;
#pragma unroll
    for (int c = 0; c < kDims / 64; ++c) {
      values.words[i][c] = *reinterpret_cast<const uint4*>(fresh.value + 64 * c + 8 * g);
    }
  }
}

// What RotateAndStoreKv does, of the queries of a block (to `queries`, rows kDims + 4 apart) and,
// in the block that has the row's own position, of its key and value. Waits for earlier kernels.
template <int kDims>
__device__ __forceinline__ void RotateOwn(const DecodeArguments& a, const DecodeRow& row,
                                          const int32_t* pages, int kv_head, int first_head,
                                          int heads, const DecodeShare& share, float* queries,
                                          DecodeFresh<kDims>& fresh) {
  constexpr int kRounds = kDims / 64;
  const RotateAndStore& r = a.rotation;
  const KvLayer& layer = a.layer;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // By the warps that have the fewest heads.
  const bool makes_key = share.MakesLast() && warp == kDecodeWarps - 1;
  const bool makes_value = share.MakesLast() && warp == kDecodeWarps - 2;
  HeadRotation<kRounds> query, key;
  float2 value[kRounds];
  query.LoadWeights(r, r.q_norm);
  if (makes_key) key.LoadWeights(r, r.k_norm);
  AwaitEarlierKernels();
  if (makes_key) key.Load(r, row.row, r.k + row.row * r.k_stride + kv_head * layer.key_dim);
  if (makes_value) {
    const auto* from =
        reinterpret_cast<const float2*>(r.v + row.row * r.v_stride + kv_head * layer.value_dim);
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      const int pair = lane + 32 * j;
      value[j] = 2 * pair < layer.value_dim ? from[pair] : make_float2(0, 0);
    }
  }
#pragma unroll 1
  for (int head = warp; head < heads; head += kDecodeWarps) {
    const float* from = r.q + row.row * r.q_stride + (first_head + head) * layer.key_dim;
    float* const to = queries + head * (kDims + 4);
    query.Load(r, row.row, from);
    query.Finish(r, [to](int i, float element) { to[i] = element; });
  }
  if (!makes_key && !makes_value) return;
  // The blocks of a key-value head's tiles all make it; one stores it.
  const bool stores = blockIdx.y % a.tiles == 0;
  const int64_t page = __ldg(pages + row.position / kPageTokens);
  const int64_t slot = (page * layer.kv_heads + kv_head) * kPageTokens + row.position % kPageTokens;
  if (makes_key) {
    __half* const cache = layer.keys + slot * layer.key_dim;
    key.Finish(r, [&](int i, float element) {
      fresh.key[i] = __float2half_rn(element);
      if (stores) cache[i] = fresh.key[i];
    });
    for (int i = layer.key_dim + lane; i < kDims; i += 32) fresh.key[i] = __float2half_rn(0.0f);
  } else {
    auto* const cache = reinterpret_cast<__half2*>(layer.values + slot * layer.value_dim);
#pragma unroll
    for (int j = 0; j < kRounds; ++j) {
      const int pair = lane + 32 * j;
      const __half2 element = __float22half2_rn(value[j]);
      reinterpret_cast<__half2*>(fresh.value)[pair] = element;
      if (stores && 2 * pair < layer.value_dim) cache[pair] = element;
    }
  }
}

// Writes the queries of a block as left operands, scaled for powers of two: [2 * c + s][lane] has
// columns 32 * c + 8 * t + 4 * s + {0..3}, in the order in which DecodeKeys has them.
template <int kDims, int kTiles, bool kExact>
__device__ __forceinline__ void PackQueries(const float* q,  // (heads, key_dim) of the block,
                                            int stride,      // rows `stride` apart
                                            int heads, int key_dim, float scale,
                                            uint4 (&packed)[kDims / 16][32]) {
  for (int i = threadIdx.x; i < kDims * 2; i += 32 * kDecodeWarps) {
    const int step = i / 32, lane = i % 32, g = lane / 4, t = lane % 4;
    const int from = step / 2 * 32 + 8 * t + 4 * (step % 2);
    float4 rows[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int head = 8 * tile + g;
      alignas(16) float v[4] = {};
      if (head < heads) {
        const float* row = q + head * stride;
        if (kExact) {
          *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(row + from);
        } else {
          for (int k = 0; k < 4; ++k) v[k] = from + k < key_dim ? row[from + k] : 0.0f;
        }
      }
      rows[tile] = make_float4(v[0] * scale, v[1] * scale, v[2] * scale, v[3] * scale);
    }
    const float4 first = rows[0], second = rows[kTiles - 1];
    packed[step][lane] =
        make_uint4(PackHalves(first.x, first.y),
                   kTiles == 1 ? PackResidues(first.x, first.y) : PackHalves(second.x, second.y),
                   PackHalves(first.z, first.w),
                   kTiles == 1 ? PackResidues(first.z, first.w) : PackHalves(second.z, second.w));
  }
}

// scores[tile][2 * n + e]: head 8 * tile + g, key 8 * n + 2 * t + e.
template <int kDims, int kTiles>
__device__ __forceinline__ void ScoreKeys(const uint4 (&queries)[kDims / 16][32],
                                          const DecodeKeys<kDims>& keys,
                                          float (&scores)[kTiles][4]) {
  const int lane = threadIdx.x % 32;
  float products[2][4] = {};
#pragma unroll
  for (int c = 0; c < kDims / 32; ++c) {
    const uint4 first = queries[2 * c][lane], second = queries[2 * c + 1][lane];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint4 key = keys.words[n][c];
      MultiplyAdd(products[n], first, key.x, key.y);
      MultiplyAdd(products[n], second, key.z, key.w);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (kTiles == 1) {
        scores[0][2 * n + e] = products[n][e] + products[n][2 + e];
      } else {
        scores[0][2 * n + e] = products[n][e];
        scores[kTiles - 1][2 * n + e] = products[n][2 + e];
      }
    }
  }
}

// Takes the scores of keys first_key + {0..15}, at least one of them visible, into the softmax.
// Leaves the keys' weights, packed as right operands, and scales the state's values down.
template <int kDims, int kTiles>
__device__ __forceinline__ void WeighKeys(int first_key, const DecodeShare& share,
                                          float (&scores)[kTiles][4],
                                          DecodeState<kDims, kTiles>& state,
                                          uint2 (&weights)[kTiles]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float(&s)[4] = scores[tile];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first_key + 8 * (i / 2) + 2 * t + i % 2;
      if (key < share.begin || key >= share.end) s[i] = MinusInfinity();
    }
    const float here = MaxOverRow(fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3])));
    const float largest = fmaxf(state.largest[tile], here);
    const float factor = Exp2(state.largest[tile] - largest);
    state.largest[tile] = largest;
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = Exp2(s[i] - largest);
    state.sum[tile] = state.sum[tile] * factor + ((s[0] + s[1]) + (s[2] + s[3]));
    weights[tile] = make_uint2(PackHalves(s[0], s[1]), PackHalves(s[2], s[3]));
    if (__all_sync(0xffffffffu, factor == 1.0f)) continue;
    const float first = __shfl_sync(0xffffffffu, factor, 8 * t);
    const float second = __shfl_sync(0xffffffffu, factor, 8 * t + 4);
#pragma unroll
    for (int m = 0; m < kDims / 16; ++m) {
      state.values[tile][m][0] *= first;
      state.values[tile][m][1] *= second;
      state.values[tile][m][2] *= first;
      state.values[tile][m][3] *= second;
    }
  }
}

template <int kDims, int kTiles>
__device__ __forceinline__ void AddValues(const DecodeValues<kDims>& values,
                                          const uint2 (&weights)[kTiles],
                                          DecodeState<kDims, kTiles>& state) {
#pragma unroll
  for (int c = 0; c < kDims / 64; ++c) {
    const uint32_t* words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = reinterpret_cast<const uint32_t*>(&values.words[i][c]);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      // Even dims are rows 0 to 7 of the left operand, odd ones rows 8 to 15.
      const uint4 left = make_uint4(__byte_perm(words[0][m], words[1][m], 0x5410),
                                    __byte_perm(words[0][m], words[1][m], 0x7632),
                                    __byte_perm(words[2][m], words[3][m], 0x5410),
                                    __byte_perm(words[2][m], words[3][m], 0x7632));
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        MultiplyAdd(state.values[tile][4 * c + m], left, weights[tile].x, weights[tile].y);
      }
    }
  }
}

// What a block keeps in shared memory.
template <int kDims>
struct DecodeShared {
  uint4 queries[kDims / 16][32];
  // Of one tile; before, the rotated queries, as many rows as there are heads.
  float values[kDecodeWarps][8][kDims + 4];
  DecodeFresh<kDims> fresh;
  float largest[kDecodeWarps][16];  // of all its heads
  float sums[kDecodeWarps][16];
  float factors[16][kMaxDecodeSplits];
  bool last;
};

// A warp goes through its part of the share: every kDecodeWarps-th run of 16 keys. The next keys
// and values are asked for as soon as the registers of the last are free; the first, where they are
// all in the cache, before earlier kernels of the step have ended.
template <int kDims, int kTiles, bool kExact>
__device__ __forceinline__ void AttendShare(const DecodeArguments& a, const DecodeRow& row,
                                            int kv_head, int first_head, int heads,
                                            const DecodeShare& share, DecodeShared<kDims>& shared,
                                            DecodeState<kDims, kTiles>& state) {
  constexpr int kStep = kDecodeWarps * kDecodeKeys;
  // Where registers are short, values are asked for together with their keys' scores.
  constexpr bool kValuesAhead = kDims * kTiles <= 256;
  const int32_t* const pages = a.pages + row.pages;
  const bool rotates = a.rotation.rows > 0;
  int key = share.begin / kDecodeKeys * kDecodeKeys + threadIdx.x / 32 * kDecodeKeys;
  const auto page_of = [&](int k) { return k < share.end ? __ldg(pages + k / kPageTokens) : 0; };
  int page = page_of(key), next_page = page_of(key + kStep);
  DecodeKeys<kDims> keys;
  DecodeValues<kDims> values;
  const auto load_first = [&] {
    if (key >= share.end) return;
    LoadKeys<kDims, kExact>(a.layer, page, kv_head, key, share, keys);
    if (kValuesAhead) LoadValues<kDims, kExact>(a.layer, page, kv_head, key, share, values);
  };
  const int key_dim = a.layer.key_dim;
  const float* q = a.rows.q + row.row * a.rows.q_stride + first_head * key_dim;
  int q_stride = key_dim;
  if (rotates) {
    float* const rotated = &shared.values[0][0][0];
    load_first();
    RotateOwn(a, row, pages, kv_head, first_head, heads, share, rotated, shared.fresh);
    q = rotated;
    q_stride = kDims + 4;
    __syncthreads();
  } else {
    AwaitEarlierKernels();
    load_first();
  }
  PackQueries<kDims, kTiles, kExact>(q, q_stride, heads, key_dim, a.spec.scale * kLog2E,
                                     shared.queries);
  __syncthreads();
  for (; key < share.end; key += kStep) {
    const bool more = key + kStep < share.end;
    const int page_behind = page_of(key + 2 * kStep);
    float scores[kTiles][4];
    uint2 weights[kTiles];
    if (!kValuesAhead) LoadValues<kDims, kExact>(a.layer, page, kv_head, key, share, values);
    if (share.MakesLast() && key + kDecodeKeys >= share.end) {
      PlaceFresh(shared.fresh, row.position, key, keys, values);
    }
    ScoreKeys<kDims, kTiles>(shared.queries, keys, scores);
    if (more) LoadKeys<kDims, kExact>(a.layer, next_page, kv_head, key + kStep, share, keys);
    WeighKeys<kDims, kTiles>(key, share, scores, state, weights);
    AddValues<kDims, kTiles>(values, weights, state);
    if (more && kValuesAhead) {
      LoadValues<kDims, kExact>(a.layer, next_page, kv_head, key + kStep, share, values);
    }
    page = next_page;
    next_page = page_behind;
  }
}

// Merges the warps' softmaxes and writes the result, or, if the row is shared, the block's part.
template <int kDims, int kTiles, int kWidth>
__device__ __forceinline__ void MergeWarps(const DecodeArguments& a, int64_t row, int first_head,
                                           int heads, const DecodeShare& share,
                                           const DecodeState<kDims, kTiles>& state,
                                           DecodeShared<kDims>& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float sum = SumOverRow(state.sum[tile]);
    if (t == 0) {
      shared.largest[warp][8 * tile + g] = state.largest[tile];
      shared.sums[warp][8 * tile + g] = sum;
    }
#pragma unroll
    for (int m = 0; m < kDims / 16; ++m) {
      const float(&v)[4] = state.values[tile][m];
      const int dim = m / 4 * 64 + 8 * g + m % 4 * 2;
      *reinterpret_cast<float2*>(&shared.values[warp][2 * t][dim]) = make_float2(v[0], v[2]);
      *reinterpret_cast<float2*>(&shared.values[warp][2 * t + 1][dim]) = make_float2(v[1], v[3]);
    }
    __syncthreads();
    const int value_dim = a.layer.value_dim, pieces = value_dim / kWidth;
    const int tile_heads = min(8, heads - 8 * tile);
    for (int begin = 0; begin < tile_heads * pieces; begin += blockDim.x) {
      const int i = begin + threadIdx.x;
      const bool valid = i < tile_heads * pieces;
      const int h = valid ? i / pieces : 0, from = valid ? i % pieces * kWidth : 0;
      const int head = 8 * tile + h;
      float sink = MinusInfinity();
      if (share.active == 1 && a.spec.sinks != nullptr) {
        sink = a.spec.sinks[first_head + head] * kLog2E;
      }
      float largest = sink;
      for (int w = 0; w < kDecodeWarps; ++w) largest = fmaxf(largest, shared.largest[w][head]);
      float total = Exp2(sink - largest);
      DecodeElements<kWidth> elements = {};
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w) {
        const float factor = Exp2(shared.largest[w][head] - largest);
        total += factor * shared.sums[w][head];
        const auto part =
            *reinterpret_cast<const DecodeElements<kWidth>*>(&shared.values[w][h][from]);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) elements.v[e] += factor * part.v[e];
      }
      if (share.active == 1) {
        const float inverse = 1.0f / total;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) elements.v[e] *= inverse;
        WriteDecoded<kWidth>(a, row, first_head + head, from, valid, elements);
      } else if (valid) {
        const int64_t part = (static_cast<int64_t>(blockIdx.z) * a.spec.heads + first_head + head) *
                                 a.splits.splits +
                             share.split;
        *reinterpret_cast<DecodeElements<kWidth>*>(a.workspace.partials + part * value_dim + from) =
            elements;
        if (from == 0) a.partial_softmax[part] = make_float2(largest, total);
      }
    }
    if (tile + 1 < kTiles) __syncthreads();
  }
}

// Grid: (splits, kv_heads * tiles, rows). kExact: key_dim and value_dim are kDims; else they are
// smaller or equal.
template <int kDims, int kTiles, bool kExact>
__global__ void __launch_bounds__(32 * kDecodeWarps, kTiles == 1 && kDims <= 128 ? 4 : 1)
    DecodeKernel(const __grid_constant__ DecodeArguments a) {
  LetLaterKernelsBegin();
  constexpr int kWidth = kExact ? 4 : 2;
  __shared__ DecodeShared<kDims> shared;
  const DecodeRow row = a.decode_rows[blockIdx.z];
  const DecodeShare share = FindDecodeShare(a, row.position);
  const int kv_head = blockIdx.y / a.tiles, tile = blockIdx.y % a.tiles;
  const bool has_work = row.position >= 0 && share.split < share.active;
  if (has_work) {
    const KvLayer& layer = a.layer;
    const int32_t* pages = a.pages + row.pages;
    // But for those that AttendShare asks for itself before it has to wait.
    const int behind = share.begin + (a.rotation.rows > 0 ? kDecodeWarps * kDecodeKeys : 0);
    PrefetchPages(layer.keys, pages, layer.kv_heads, kv_head, layer.key_dim, behind, share.end);
    PrefetchPages(layer.values, pages, layer.kv_heads, kv_head, layer.value_dim, behind, share.end);
  }
  if (!has_work) {
    AwaitEarlierKernels();
    return;
  }

  const int group = a.spec.heads / a.layer.kv_heads;
  const int tile_heads = (group + a.tiles - 1) / a.tiles;
  const int first_head = kv_head * group + tile * tile_heads;
  const int heads = min(tile_heads, group - tile * tile_heads);

  DecodeState<kDims, kTiles> state = {};
#pragma unroll
  for (int i = 0; i < kTiles; ++i) state.largest[i] = MinusInfinity();
  AttendShare<kDims, kTiles, kExact>(a, row, kv_head, first_head, heads, share, shared, state);
  MergeWarps<kDims, kTiles, kWidth>(a, row.row, first_head, heads, share, state, shared);
  if (share.active == 1) return;

  __syncthreads();
  if (threadIdx.x == 0) {
    // It wraps to zero, ready for the next launch.
    const unsigned int others = share.active - 1;
    unsigned int* counter = a.workspace.counters + blockIdx.z * gridDim.y + blockIdx.y;
    shared.last = IncrementForAll(counter, others) == others;
  }
  __syncthreads();
  if (!shared.last) return;
  if (share.active <= kFewShares) {
    return MergeFewShares<kWidth>(a, row.row, first_head, heads, share.active);
  }
  MergeShares<kWidth>(a, row.row, first_head, heads, share.active, shared.factors);
}

template <int kDims, int kTiles>
void LaunchDecode(const DecodeArguments& a, int n_decode_rows, cudaStream_t stream) {
  const dim3 grid(a.splits.splits, a.layer.kv_heads * a.tiles, n_decode_rows);
  const bool exact = a.layer.key_dim == kDims && a.layer.value_dim == kDims;
  const auto kernel =
      exact ? DecodeKernel<kDims, kTiles, true> : DecodeKernel<kDims, kTiles, false>;
  LaunchDependent(kernel, grid, 32 * kDecodeWarps, 0, stream, a);
}

template <int kDims>
void LaunchDecodeFor(const DecodeArguments& a, int tile_heads, int n_decode_rows,
                     cudaStream_t stream) {
  if constexpr (MostDecodeHeads(kDims) > 8) {
    if (tile_heads > 8) return LaunchDecode<kDims, 2>(a, n_decode_rows, stream);
  }
  LaunchDecode<kDims, 1>(a, n_decode_rows, stream);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_DECODE_ATTENTION_CUH_
