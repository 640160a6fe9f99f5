#include <algorithm>
#include <cassert>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/decode_arguments.h"
#include "kernels/attention/prefill_arguments.h"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

// Quantizes rows of `out` where heads are no multiple of the groups, so that the attention kernels
// could not. A warp a group.
__device__ __forceinline__ void QuantizeRow(const AttentionRows& rows, int64_t row) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * blockDim.x / 32 + threadIdx.x / 32;
  if (group >= rows.quantized.columns / 32) return;
  const float value = rows.out[row * rows.out_stride + group * 32 + threadIdx.x % 32];
  QuantizeGroup(value, row, group, rows.quantized);
}

__global__ void QuantizeDecodedKernel(AttentionRows rows, const DecodeRow* decode_rows) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const DecodeRow row = decode_rows[blockIdx.y];
  if (row.position >= 0) QuantizeRow(rows, row.row);
}

__global__ void QuantizePrefilledKernel(AttentionRows rows, const PrefillTile* tiles) {
  const PrefillTile tile = tiles[blockIdx.y];
  for (int i = 0; i < tile.rows; ++i) QuantizeRow(rows, tile.first_row + i);
}

dim3 QuantizeGrid(const AttentionRows& rows, int n) {
  return dim3(static_cast<unsigned>((rows.quantized.columns / 32 + 3) / 4), n);
}

int MostElements(const KvLayer& layer) {
  const int dims = std::max(layer.key_dim, layer.value_dim);
  assert(dims <= kMaxHeadDim && layer.key_dim % 2 == 0 && layer.value_dim % 2 == 0);
  return dims;
}

}  // namespace

DecodeSplits ChooseDecodeSplits(int rows, int heads, int kv_heads, int multiprocessors) {
  // Two blocks a multiprocessor keep the memory busy. With enough rows for that, sequences are
  // still cut, as one may be much longer than the others, but not into small pieces.
  const int tiles = (heads / kv_heads + 15) / 16;
  const int64_t blocks = std::max<int64_t>(1, static_cast<int64_t>(rows) * kv_heads * tiles);
  const int64_t wanted = (2 * static_cast<int64_t>(multiprocessors) + blocks - 1) / blocks;
  return {static_cast<int>(std::clamp<int64_t>(wanted, 4, kMaxDecodeSplits)),
          static_cast<int>(std::clamp<int64_t>(blocks / 16, 2, 16))};
}

size_t DecodePartialFloats(int rows, int heads, int value_dim, const DecodeSplits& splits) {
  if (splits.splits <= 1) return 0;
  return static_cast<size_t>(rows) * heads * splits.splits * (value_dim + 2);
}

void DecodeAttention(const AttentionRows& rows, const DecodeRow* decode_rows, int n_decode_rows,
                     const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                     const DecodeSplits& splits, const DecodeWorkspace& workspace,
                     const RotateAndStore* rotation, cudaStream_t stream) {
  if (n_decode_rows <= 0) return;
  const int dims = MostElements(layer);
  const int group = spec.heads / layer.kv_heads;
  // What the kernels quantize, four elements a thread, is whole groups of whole heads.
  const bool exact = layer.key_dim == layer.value_dim && (dims == 64 || dims == 128 || dims == 256);
  const bool quantize = rows.quantized.q != nullptr;
  const int tiles = (group + MostDecodeHeads(dims) - 1) / MostDecodeHeads(dims);
  const size_t partial_values =
      static_cast<size_t>(n_decode_rows) * spec.heads * splits.splits * layer.value_dim;
  const DecodeArguments arguments = {
      .rows = rows,
      .decode_rows = decode_rows,
      .pages = pages,
      .layer = layer,
      .spec = spec,
      .splits = splits,
      .workspace = workspace,
      .partial_softmax = reinterpret_cast<float2*>(workspace.partials + partial_values),
      .tiles = tiles,
      .quantize = quantize && exact,
      .rotation = rotation != nullptr ? *rotation : RotateAndStore()};
  const int tile_heads = (group + tiles - 1) / tiles;
  if (dims <= 64) {
    LaunchDecodeFor<64>(arguments, tile_heads, n_decode_rows, stream);
  } else if (dims <= 128) {
    LaunchDecodeFor<128>(arguments, tile_heads, n_decode_rows, stream);
  } else {
    LaunchDecodeFor<256>(arguments, tile_heads, n_decode_rows, stream);
  }
  if (quantize && !exact) {
    LaunchDependent(QuantizeDecodedKernel, QuantizeGrid(rows, n_decode_rows), 128, 0, stream, rows,
                    decode_rows);
  }
}

void PrefillAttention(const AttentionRows& rows, const PrefillTile* tiles, int n_tiles,
                      const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                      cudaStream_t stream) {
  if (n_tiles <= 0) return;
  const int dims = MostElements(layer);
  const bool quantize = rows.quantized.q != nullptr;
  const bool whole_groups = layer.value_dim % 32 == 0;
  const PrefillArguments arguments = {rows, tiles, pages, layer, spec, quantize && whole_groups, 1};
  if (dims <= 64) {
    LaunchPrefillFor<64>(arguments, n_tiles, stream);
  } else if (dims <= 128) {
    LaunchPrefillFor<128>(arguments, n_tiles, stream);
  } else {
    LaunchPrefillFor<256>(arguments, n_tiles, stream);
  }
  if (quantize && !whole_groups) {
    QuantizePrefilledKernel<<<QuantizeGrid(rows, n_tiles), 128, 0, stream>>>(rows, tiles);
  }
}

}  // namespace gguf_offload::cuda
