// Causal grouped-query attention over a paged key-value cache, on the GPU.
//
// For each row (a token of a sequence) and head, out = softmax(scale * q . K) V over the keys at
// positions up to the row's own, which are in the cache already. Rows come in two ways: single rows
// of sequences that generate (DecodeAttention, which shares a long sequence among many blocks and
// is bound by memory), and tiles of consecutive rows of prompts (PrefillAttention, on tensor
// cores). Both may take part in one batch, each writing its own rows of `out`.
//
// All pointers are device memory. Strides are in elements, multiples of 4; q and out are aligned to
// 16 bytes. Dimensions of heads are even and at most kMaxHeadDim. Nothing beyond the positions that
// a row sees is read from the cache, so that unused slots may hold anything.
#ifndef KERNELS_ATTENTION_ATTENTION_CUDA_H_
#define KERNELS_ATTENTION_ATTENTION_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attention/kv_layer_cuda.h"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/ops/rope_cuda.h"

namespace gguf_offload::cuda {

inline constexpr int kMaxHeadDim = 256;

struct AttentionSpec {
  int heads = 0;       // a multiple of the layer's kv_heads
  float scale = 1.0f;  // of q . k, usually 1 / sqrt(key_dim)
  int window = 0;      // a row at position p sees keys at positions > p - window; 0: all
  // One logit a head that takes part in the softmax's denominator only (gpt-oss).
  const float* sinks = nullptr;  // (heads) or null
};

// Queries and results of a batch. The 8-bit form can be had without `out` where key_dim and
// value_dim are both 64, 128 or 256.
struct AttentionRows {
  const float* q = nullptr;  // (n, heads, key_dim), rows q_stride apart
  int64_t q_stride = 0;
  float* out = nullptr;  // (n, heads, value_dim), rows out_stride apart, or null
  int64_t out_stride = 0;
  QuantizedRows quantized;  // the result in 8 bits, (n, heads * value_dim), if q is not null
};

// One row of the batch. Page p of its sequence is pages[.pages + p]. At a negative position there
// is nothing to do.
struct DecodeRow {
  int32_t row;
  int32_t position;
  int32_t pages;
};

// How a row's positions are shared among blocks: as equal shares of whole pages, none smaller than
// min_pages, at most `splits` of them. Fixed by the host; how many a row really needs is found on
// the device, so that a captured launch stays right when sequences grow.
struct DecodeSplits {
  int splits = 1;  // at most kMaxDecodeSplits
  int min_pages = 1;
};
inline constexpr int kMaxDecodeSplits = 64;

DecodeSplits ChooseDecodeSplits(int rows, int heads, int kv_heads, int multiprocessors);

// What blocks that share a row meet in; only one launch at a time may use it.
struct DecodeWorkspace {
  float* partials = nullptr;         // (DecodePartialFloats(...)), aligned to 16 bytes
  unsigned int* counters = nullptr;  // (rows * heads); zero before the first launch, left zero
};
size_t DecodePartialFloats(int rows, int heads, int value_dim, const DecodeSplits& splits);

// With `rotation`, not null, this is RotateAndStoreKv as well, in one launch: of the same queries
// and layer, whose decode rows belong to a sequence each; rows.q stays as it is.
void DecodeAttention(const AttentionRows& rows, const DecodeRow* decode_rows, int n_decode_rows,
                     const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                     const DecodeSplits& splits, const DecodeWorkspace& workspace,
                     const RotateAndStore* rotation, cudaStream_t stream);

// The most rows of a tile.
inline constexpr int kPrefillTileRows = 64;

// Consecutive rows of the batch that are consecutive positions of one sequence. Page p of the
// sequence is pages[.pages + p]; entries of pages that no row of the tile sees are not read.
struct PrefillTile {
  int32_t first_row;
  int32_t rows;  // at most kPrefillTileRows; 0: nothing to do
  int32_t first_position;
  int32_t pages;
};

void PrefillAttention(const AttentionRows& rows, const PrefillTile* tiles, int n_tiles,
                      const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                      cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_ATTENTION_CUDA_H_
