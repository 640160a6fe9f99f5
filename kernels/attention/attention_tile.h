// The arithmetic of attention for one tile: a few consecutive tokens of one sequence times some of
// the query heads that share one key-value head. All of a tile's rows (token, head) go through a
// page together, so that its keys and values are loaded once.
//
// For attention.cc only, which cuts a batch into tiles and hands them to threads.
#ifndef KERNELS_ATTENTION_ATTENTION_TILE_H_
#define KERNELS_ATTENTION_ATTENTION_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"

namespace gguf_offload {

inline constexpr int kTileRows = 32;  // the most rows (tokens * heads) of a tile

// Rows of scratch are padded to this many floats, zeros in the padding.
inline constexpr int kPad = 16;
inline constexpr size_t Padded(int dim) {
  return (static_cast<size_t>(dim) + kPad - 1) / kPad * kPad;
}

// Row r of the tile is token r / heads, head first_head + r % heads.
struct AttentionTile {
  const float* q;  // (tokens, heads, k_dim), tokens q_stride apart, heads contiguous
  size_t q_stride;
  float* out;  // (tokens, heads, v_dim), tokens out_stride apart, heads contiguous
  size_t out_stride;
  const int32_t* pages;  // of the sequence
  int first_position;    // of the first token
  int tokens;
  int kv_head;
  int first_head;
  int heads;

  int rows() const { return tokens * heads; }
};

// An unnormalized softmax over some positions, for each row of a tile: the largest score m, the sum
// of e^(score - m), and the values weighted by e^(score - m).
struct PartialSoftmax {
  float* largest;   // (kTileRows)
  float* sums;      // (kTileRows)
  float* weighted;  // (kTileRows, Padded(v_dim))

  static size_t Floats(const KvLayer& layer) { return kTileRows * (2 + Padded(layer.v_dim)); }
  // Lays one out in `memory` (Floats(layer)), aligned to 64 bytes.
  static PartialSoftmax At(float* memory) {
    return {memory, memory + kTileRows, memory + 2 * kTileRows};
  }
};

// What a thread needs besides.
struct TileScratch {
  float* queries;  // (kTileRows, Padded(k_dim))
  float* scores;   // (kTileRows, kPageTokens)
  float* rescale;  // (kTileRows)
  float* keys;     // (kPageTokens, Padded(k_dim)): a page converted to padded float32
  float* values;   // (kPageTokens, Padded(v_dim)): likewise; none if the values are in the keys

  static size_t Floats(const KvLayer& layer) {
    return kTileRows * (Padded(layer.k_dim) + kPageTokens + 1) +
           kPageTokens * (Padded(layer.k_dim) + (layer.values_in_keys ? 0 : Padded(layer.v_dim)));
  }
  static TileScratch At(float* memory, const KvLayer& layer) {
    TileScratch scratch;
    scratch.queries = memory;
    scratch.scores = scratch.queries + kTileRows * Padded(layer.k_dim);
    scratch.rescale = scratch.scores + kTileRows * kPageTokens;
    scratch.keys = scratch.rescale + kTileRows;
    scratch.values = scratch.keys + kPageTokens * Padded(layer.k_dim);
    return scratch;
  }
};

// The positions [begin, end) that any row of the tile sees.
struct Positions {
  int begin;
  int end;
};
inline Positions VisiblePositions(int first_position, int tokens, int window) {
  const int begin = window > 0 && first_position >= window ? first_position - window + 1 : 0;
  return {begin, first_position + tokens};
}

// Copies the tile's queries to scratch.queries, where AttendSplit expects them.
void PackQueries(const AttentionTile& tile, const KvLayer& layer, const TileScratch& scratch);

// Computes the softmax over positions [split * kSplitTokens, (split + 1) * kSplitTokens).
void AttendSplit(const AttentionTile& tile, const KvLayer& layer, const AttentionOptions& options,
                 int split, const TileScratch& scratch, const PartialSoftmax& partial);

// total = no positions.
void ClearPartial(const AttentionTile& tile, const KvLayer& layer, const PartialSoftmax& total);

// total += next, whose positions follow.
void MergePartial(const AttentionTile& tile, const KvLayer& layer, const PartialSoftmax& next,
                  const PartialSoftmax& total);

// Adds the sinks, normalizes, and writes tile.out.
void FinishTile(const AttentionTile& tile, const KvLayer& layer, const AttentionOptions& options,
                const PartialSoftmax& total);

}  // namespace gguf_offload

#endif  // KERNELS_ATTENTION_ATTENTION_TILE_H_
