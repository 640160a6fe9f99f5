// The rows of the tensor core products are pairs of a token and a head, of which a block has 16 a
// group of four warps: with the 128 heads of the large models all of them at the same position.
// Keys come in 32 positions at a time. Each of a group's warps scores 8 of them, the scores meet in
// shared memory, and each warp adds up a quarter of the values' elements.
#include <algorithm>
#include <cassert>

#include "kernels/attention/latent_attention_cuda.h"
#include "kernels/attention/prefetch_pages.cuh"
#include "kernels/attention/shared_tile.cuh"
#include "kernels/ops/block_sum.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/read_ahead.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kDims = kMaxLatentKeyDim;
constexpr int kChunks = kDims / 8;
constexpr int kKeys = kPageTokens;                 // of a round
constexpr int kWarpDims = kMaxLatentValueDim / 4;  // values that a warp adds up
constexpr int kScoreStride = kKeys + 4;            // spreads rows over the banks
constexpr int kMergeThreads = 256;
constexpr int kAheadThreads = 64;  // of an idle block
constexpr int kTileBytes = kKeys * kDims * sizeof(__half);

// kGroups: of four warps and 16 rows each.
template <int kGroups, int kBuffers>
struct LatentShape {
  static constexpr int kRows = 16 * kGroups;
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kQueryBytes = kRows * kDims * sizeof(__half);
  static constexpr int kSharedBytes =
      kQueryBytes + kBuffers * kTileBytes + kRows * kScoreStride * static_cast<int>(sizeof(float));
};

struct LatentArguments {
  AttentionRows rows;
  const DecodeRow* decode_rows;  // null: tiles
  const PrefillTile* tiles;
  const int32_t* pages;
  KvLayer layer;
  AttentionSpec spec;
  DecodeSplits splits;
  float* partials;          // (decode rows, heads, splits, value_dim), unnormalized
  float2* partial_softmax;  // (decode rows, heads, splits): largest score and sum
  ReadAhead ahead;          // what blocks of decode rows without work of their own bring nearer
  float ahead_cycles;       // see BringNearer
};

// The positions of one block: [begin, end), in share `split` of `active`.
struct LatentShare {
  int begin;
  int end;
  int active;
};

__device__ __forceinline__ LatentShare FindShare(const DecodeSplits& splits, int position,
                                                 int split) {
  const int pages = position / kPageTokens + 1;
  const int share = max(splits.min_pages, (pages + splits.splits - 1) / splits.splits);
  LatentShare result;
  result.active = (pages + share - 1) / share;
  result.begin = split * share * kPageTokens;
  result.end = min(position + 1, (split + 1) * share * kPageTokens);
  return result;
}

// A row of the products.
struct LatentRow {
  int64_t token;
  int head;
  int position;  // negative: there is no such row
};

// What the rows of a block are.
struct LatentBlock {
  int first;      // of the pairs of a token and a head
  int tokens;     // whose pairs there are
  int64_t token;  // the first of them
  int position;   // its position
  int heads;

  __device__ __forceinline__ LatentRow Row(int i) const {
    const int pair = first + i, token_index = pair / heads;
    return {token + token_index, pair - token_index * heads,
            token_index < tokens ? position + token_index : -1};
  }
};

// Eight elements of a query, multiplied by `scale`; zeros where there are none.
struct QueryChunk {
  float v[8] = {};

  __device__ __forceinline__ void Load(const LatentArguments& a, const LatentRow& row, int chunk,
                                       float scale) {
    const int dim = a.layer.key_dim;
    if (row.position < 0 || 8 * chunk >= dim) return;
    const float* q = a.rows.q + row.token * a.rows.q_stride + row.head * dim + 8 * chunk;
    if (dim % 8 == 0) {
      const float4 low = reinterpret_cast<const float4*>(q)[0];
      const float4 high = reinterpret_cast<const float4*>(q)[1];
      const float loaded[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = loaded[e] * scale;
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = 8 * chunk + e < dim ? q[e] * scale : 0.0f;
    }
  }
};

// Writes the block's queries to shared memory, as CopyTile does keys.
template <int kRows, int kThreads>
__device__ __forceinline__ void StoreQueries(const LatentArguments& a, const LatentBlock& block,
                                             uint32_t tile) {
  constexpr int kAtOnce = 9;  // that a thread has on their way
  static_assert(kRows * kChunks % (kAtOnce * kThreads) == 0);
  const float scale = a.spec.scale * kLog2E;
  for (int first = threadIdx.x; first < kRows * kChunks; first += kAtOnce * kThreads) {
    QueryChunk chunks[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * kThreads;
      chunks[j].Load(a, block.Row(i / kChunks), i % kChunks, scale);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int row = (first + j * kThreads) / kChunks, chunk = (first + j * kThreads) % kChunks;
      const float(&v)[8] = chunks[j].v;
      StoreChunk(tile + (row * kChunks + (chunk ^ row % 8)) * 16,
                 make_uint4(PackHalves(v[0], v[1]), PackHalves(v[2], v[3]), PackHalves(v[4], v[5]),
                            PackHalves(v[6], v[7])));
    }
  }
}

// Scores of a group's 16 rows with keys 8 * quarter + {0..7} of the tile.
__device__ __forceinline__ void ScoreKeys(uint32_t queries, uint32_t keys, int group, int quarter,
                                          int key_dim, float (&scores)[4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
  const uint32_t query_row = queries + (16 * group + matrix % 2 * 8 + r) * kChunks * 16;
  const uint32_t key_row = keys + (8 * quarter + r) * kChunks * 16;
  float others[4] = {};  // every product waits for the one before into the same sums
#pragma unroll 2
  for (int k = 0; k < kDims / 32; ++k) {
    if (32 * k >= key_dim) break;
    const uint4 key = LoadMatrices(key_row + ((4 * k + matrix) ^ r) * 16);
    const uint4 first = LoadMatrices(query_row + ((4 * k + matrix / 2) ^ r) * 16);
    const uint4 second = LoadMatrices(query_row + ((4 * k + 2 + matrix / 2) ^ r) * 16);
    MultiplyAdd(scores, first, key.x, key.y);
    MultiplyAdd(others, second, key.z, key.w);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] += others[i];
}

// The softmax of rows g and g + 8 of a group, and a warp's elements of their values.
struct LatentState {
  float largest[2];
  float sum[2];                    // the lane's own part
  float values[kWarpDims / 8][4];  // [n]: elements 8 * n + 2 * t + {0, 1} of row g, then of g + 8
};

// Takes the scores of a tile into the softmax; `scores` is the group's part of shared memory.
// Leaves the keys' weights as left operands.
__device__ __forceinline__ void WeighKeys(const float* scores, int first_key, int begin, int end,
                                          const int (&positions)[2], LatentState& state,
                                          uint4 (&weights)[kKeys / 16]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float s[kKeys / 4];  // keys 8 * n + 2 * t + {0, 1}
    float here = MinusInfinity();
#pragma unroll
    for (int n = 0; n < kKeys / 4; ++n) {
      const int slot = n / 2 * 8 + 2 * t + n % 2, key = first_key + slot;
      const bool visible = key >= begin && key < end && key <= positions[i];
      s[n] = visible ? scores[(g + 8 * i) * kScoreStride + slot] : MinusInfinity();
      here = fmaxf(here, s[n]);
    }
    const float largest = fmaxf(state.largest[i], MaxOverRow(here));
    // A row that has seen no key yet has nothing to scale and nothing to add.
    const float reference = largest == MinusInfinity() ? 0.0f : largest;
    const float factor = Exp2(state.largest[i] - reference);
    state.largest[i] = largest;
    state.sum[i] *= factor;
#pragma unroll
    for (int n = 0; n < kKeys / 4; ++n) {
      s[n] = Exp2(s[n] - reference);
      state.sum[i] += s[n];
    }
    if (factor != 1.0f) {
#pragma unroll
      for (int n = 0; n < kWarpDims / 8; ++n) {
        state.values[n][2 * i] *= factor;
        state.values[n][2 * i + 1] *= factor;
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t low = PackHalves(s[4 * k], s[4 * k + 1]);
      const uint32_t high = PackHalves(s[4 * k + 2], s[4 * k + 3]);
      if (i == 0) {
        weights[k].x = low;
        weights[k].z = high;
      } else {
        weights[k].y = low;
        weights[k].w = high;
      }
    }
  }
}

__device__ __forceinline__ void WriteRow(const LatentArguments& a, const LatentRow& row, int i,
                                         int quarter, int split, bool whole,
                                         const LatentState& state) {
  const int t = threadIdx.x % 4, dim = a.layer.value_dim;
  const float sum = SumOverRow(state.sum[i]);
  if (row.position < 0) return;
  float* to = a.rows.out + row.token * a.rows.out_stride + static_cast<int64_t>(row.head) * dim;
  float factor = 1.0f / sum;
  if (!whole) {
    const int64_t part =
        (static_cast<int64_t>(blockIdx.z) * a.spec.heads + row.head) * a.splits.splits + split;
    to = a.partials + part * dim;
    factor = 1;
    if (quarter == 0 && t == 0) a.partial_softmax[part] = make_float2(state.largest[i], sum);
  }
#pragma unroll
  for (int n = 0; n < kWarpDims / 8; ++n) {
    const int element = quarter * kWarpDims + 8 * n + 2 * t;
    if (element >= dim) continue;
    *reinterpret_cast<float2*>(to + element) =
        make_float2(state.values[n][2 * i] * factor, state.values[n][2 * i + 1] * factor);
  }
}

// Grid: (splits, heads / rows, decode rows), or (64 * heads / rows, tiles).
template <int kGroups, int kBuffers, bool kDecode>
__global__ void __launch_bounds__(LatentShape<kGroups, kBuffers>::kThreads, 1)
    LatentKernel(const __grid_constant__ LatentArguments a) {
  LetLaterKernelsBegin();
  using Shape = LatentShape<kGroups, kBuffers>;
  extern __shared__ __align__(128) uint8_t shared[];
  LatentBlock block;
  LatentShare share;
  const int32_t* pages = a.pages;
  block.heads = a.spec.heads;
  if constexpr (kDecode) {
    const DecodeRow row = a.decode_rows[blockIdx.z];
    share = FindShare(a.splits, row.position, blockIdx.x);
    const bool has_work = row.position >= 0 && static_cast<int>(blockIdx.x) < share.active;
    if (has_work) {
      PrefetchPages(a.layer.keys, pages + row.pages, 1, 0, a.layer.key_dim, share.begin, share.end);
    }
    if (static_cast<int>(blockIdx.x) >= share.active) {
      const int idle = gridDim.x - share.active, block = blockIdx.x - share.active;
      if (threadIdx.x < kAheadThreads) {
        BringNearer(a.ahead, a.ahead_cycles,
                    (blockIdx.y * idle + block) * kAheadThreads + threadIdx.x,
                    gridDim.y * idle * kAheadThreads);
      }
    }
    AwaitEarlierKernels();
    if (!has_work) return;
    block.first = blockIdx.y * Shape::kRows;
    block.tokens = 1;
    block.token = row.row;
    block.position = row.position;
    pages += row.pages;
  } else {
    AwaitEarlierKernels();
    // The last tiles of a prompt have the most keys; they go first.
    const PrefillTile tile = a.tiles[gridDim.y - 1 - blockIdx.y];
    block.first = blockIdx.x * Shape::kRows;
    if (block.first >= tile.rows * block.heads) return;
    block.tokens = tile.rows;
    block.token = tile.first_row;
    block.position = tile.first_position;
    const int last = min(tile.rows - 1, (block.first + Shape::kRows - 1) / block.heads);
    share = {0, tile.first_position + last + 1, 1};
    pages += tile.pages;
  }

  const uint32_t queries = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t tiles = queries + Shape::kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group = warp / 4, quarter = warp % 4;
  float* const scores =
      reinterpret_cast<float*>(shared + Shape::kQueryBytes + kBuffers * kTileBytes) +
      16 * group * kScoreStride;
  const int key_dim = a.layer.key_dim, value_dim = a.layer.value_dim;
  const auto copy = [&](int first_key, int buffer) {
    CopyTile<kDims, kKeys, false>(tiles + buffer * kTileBytes, a.layer.keys, pages, 1, 0, key_dim,
                                  first_key, share.begin, share.end);
  };

  if (kBuffers > 1) copy(share.begin, 0);
  StoreQueries<Shape::kRows, Shape::kThreads>(a, block, queries);
  const LatentRow rows[2] = {block.Row(16 * group + g), block.Row(16 * group + g + 8)};
  const int positions[2] = {rows[0].position, rows[1].position};
  LatentState state = {};
  state.largest[0] = state.largest[1] = MinusInfinity();
  int buffer = 0;
  for (int first_key = share.begin; first_key < share.end; first_key += kKeys) {
    if (kBuffers == 1) {
      __syncthreads();  // nobody reads the last keys any more
      copy(first_key, 0);
    }
    WaitForCopies();
    __syncthreads();
    if (kBuffers > 1 && first_key + kKeys < share.end) copy(first_key + kKeys, 1 - buffer);
    const uint32_t keys = tiles + buffer * kTileBytes;
    float s[4] = {};
    ScoreKeys(queries, keys, group, quarter, key_dim, s);
    const int slot = 8 * quarter + 2 * t;
    *reinterpret_cast<float2*>(scores + g * kScoreStride + slot) = make_float2(s[0], s[1]);
    *reinterpret_cast<float2*>(scores + (g + 8) * kScoreStride + slot) = make_float2(s[2], s[3]);
    __syncthreads();
    uint4 weights[kKeys / 16];
    WeighKeys(scores, first_key, share.begin, share.end, positions, state, weights);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kWarpDims / 16; ++n) {
        if (quarter * kWarpDims + 16 * n >= value_dim) continue;
        const uint4 values = ValueOperands<kDims>(keys, quarter * (kWarpDims / 16) + n, k);
        MultiplyAdd(state.values[2 * n], weights[k], values.x, values.y);
        MultiplyAdd(state.values[2 * n + 1], weights[k], values.z, values.w);
      }
    }
    if (kBuffers > 1) buffer = 1 - buffer;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    WriteRow(a, rows[i], i, quarter, blockIdx.x, share.active == 1, state);
  }
}

// Grid: (heads, decode rows).
__global__ void __launch_bounds__(kMergeThreads, 4)
    MergeLatentKernel(const __grid_constant__ LatentArguments a) {
  LetLaterKernelsBegin();
  __shared__ float factors[kMaxDecodeSplits];  // of the parts' values in the result
  const DecodeRow row = a.decode_rows[blockIdx.y];
  AwaitEarlierKernels();
  if (row.position < 0) return;
  const int active = FindShare(a.splits, row.position, 0).active;
  if (active == 1) return;
  const int head = blockIdx.x, dim = a.layer.value_dim;
  const int64_t first = (static_cast<int64_t>(blockIdx.y) * a.spec.heads + head) * a.splits.splits;
  // A thread's two elements of the first parts are on their way before it is known what they count.
  static_assert(2 * kMergeThreads >= kMaxLatentValueDim);
  constexpr int kAtOnce = 20;
  const int element = 2 * threadIdx.x;
  const float* const part = a.partials + first * dim + element;
  const auto load = [&](int i) {
    return *reinterpret_cast<const float2*>(part + static_cast<int64_t>(i) * dim);
  };
  float2 values[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (i < active && element < dim) values[i] = load(i);
  }
  if (threadIdx.x < 32) {
    float largest = MinusInfinity(), sum = 0;
    for (int i = threadIdx.x; i < active; i += 32) {
      largest = fmaxf(largest, a.partial_softmax[first + i].x);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    }
    for (int i = threadIdx.x; i < active; i += 32) {
      const float2 part = a.partial_softmax[first + i];
      factors[i] = Exp2(part.x - largest);
      sum += part.y * factors[i];
    }
    const float inverse = 1.0f / SumOverWarp(sum);
    for (int i = threadIdx.x; i < active; i += 32) factors[i] *= inverse;
  }
  __syncthreads();
  if (element >= dim) return;
  float2 total = make_float2(0, 0);
  const auto add = [&](const float2& v, int i) {
    total.x += v.x * factors[i];
    total.y += v.y * factors[i];
  };
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (i < active) add(values[i], i);
  }
#pragma unroll 8
  for (int i = kAtOnce; i < active; ++i) add(load(i), i);
  float* out = a.rows.out + row.row * a.rows.out_stride + static_cast<int64_t>(head) * dim;
  *reinterpret_cast<float2*>(out + element) = total;
}

bool HasSharedMemory(int bytes) {
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return most >= bytes;
}

template <int kGroups, int kBuffers, bool kDecode>
void Launch(const LatentArguments& a, int n, cudaStream_t stream) {
  using Shape = LatentShape<kGroups, kBuffers>;
  const auto kernel = LatentKernel<kGroups, kBuffers, kDecode>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes);
  const auto blocks = [](int pairs) {
    return static_cast<unsigned>((pairs + Shape::kRows - 1) / Shape::kRows);
  };
  const dim3 grid = kDecode ? dim3(a.splits.splits, blocks(a.spec.heads), n)
                            : dim3(blocks(kPrefillTileRows * a.spec.heads), n);
  LaunchDependent(kernel, grid, Shape::kThreads, Shape::kSharedBytes, stream, a);
}

// Groups of a block of decode rows. Few rows are done fastest by many small blocks; with more, keys
// are read for as many heads at once as there is room for.
int DecodeGroups(int rows) { return rows <= 2 ? 2 : 4; }

template <bool kDecode>
void LaunchBest(const LatentArguments& a, int n, cudaStream_t stream) {
  assert(a.layer.key_dim <= kMaxLatentKeyDim && a.layer.value_dim <= kMaxLatentValueDim &&
         a.layer.key_dim % 2 == 0 && a.layer.value_dim % 2 == 0 && a.layer.kv_heads == 1 &&
         a.rows.q_stride % 4 == 0 && a.rows.out_stride % 2 == 0);
  const bool many = !kDecode || a.spec.heads > 16;
  if (!many || !HasSharedMemory(LatentShape<4, 2>::kSharedBytes)) {
    return Launch<1, 1, kDecode>(a, n, stream);
  }
  if constexpr (kDecode) {
    if (DecodeGroups(n) == 2) return Launch<2, 2, kDecode>(a, n, stream);
  }
  Launch<4, 2, kDecode>(a, n, stream);
}

}  // namespace

DecodeSplits ChooseLatentSplits(int rows, int heads, int multiprocessors) {
  // A block a multiprocessor keeps it busy.
  rows = std::max(rows, 1);
  const int block_heads = 16 * DecodeGroups(rows);
  const int64_t blocks = static_cast<int64_t>(rows) * ((heads + block_heads - 1) / block_heads);
  const int64_t wanted = (multiprocessors + blocks - 1) / blocks;
  return {static_cast<int>(std::clamp<int64_t>(wanted, 2, kMaxDecodeSplits)),
          block_heads <= 32 ? 1 : 2};
}

size_t LatentPartialFloats(int rows, int heads, int value_dim, const DecodeSplits& splits) {
  return static_cast<size_t>(rows) * heads * splits.splits * (value_dim + 2);
}

void DecodeLatentAttention(const AttentionRows& rows, const DecodeRow* decode_rows,
                           int n_decode_rows, const int32_t* pages, const KvLayer& layer,
                           const AttentionSpec& spec, const DecodeSplits& splits, float* partials,
                           const ReadAhead& ahead, cudaStream_t stream) {
  if (n_decode_rows <= 0) return;
  const size_t partial_values =
      static_cast<size_t>(n_decode_rows) * spec.heads * splits.splits * layer.value_dim;
  const LatentArguments a = {
      .rows = rows,
      .decode_rows = decode_rows,
      .tiles = nullptr,
      .pages = pages,
      .layer = layer,
      .spec = spec,
      .splits = splits,
      .partials = partials,
      .partial_softmax = reinterpret_cast<float2*>(partials + partial_values),
      .ahead = ahead,
      .ahead_cycles = ReadAheadCycles()};
  LaunchBest<true>(a, n_decode_rows, stream);
  if (splits.splits > 1) {
    LaunchDependent(MergeLatentKernel, dim3(spec.heads, n_decode_rows), kMergeThreads, 0, stream,
                    a);
  }
}

void PrefillLatentAttention(const AttentionRows& rows, const PrefillTile* tiles, int n_tiles,
                            const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                            cudaStream_t stream) {
  if (n_tiles <= 0) return;
  const LatentArguments a = {.rows = rows,
                             .decode_rows = nullptr,
                             .tiles = tiles,
                             .pages = pages,
                             .layer = layer,
                             .spec = spec,
                             .splits = {},
                             .partials = nullptr,
                             .partial_softmax = nullptr,
                             .ahead = {},
                             .ahead_cycles = 0};
  LaunchBest<false>(a, n_tiles, stream);
}

}  // namespace gguf_offload::cuda
