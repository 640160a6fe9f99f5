#include "kernels/attention/attention.h"

#include <algorithm>

#include "kernels/attention/attention_tile.h"

namespace gguf_offload {
namespace {

// How a batch is cut into tiles. Has no influence on results. The tiles of a sequence are numbered
// key-value head by key-value head (whose keys then stay in a core's cache), the last tokens first
// (they have the most keys, and the longest tasks should start first).
class Tiling {
 public:
  // tile_begin: (batch.size() + 1)
  Tiling(const float* q, size_t q_stride, std::span<const SequenceRows> batch, const KvLayer& layer,
         const AttentionOptions& options, float* out, size_t out_stride, size_t* tile_begin)
      : q_(q),
        q_stride_(q_stride),
        batch_(batch),
        layer_(layer),
        group_(options.n_heads / layer.n_kv_heads),
        tile_heads_(std::min(group_, kTileRows)),
        tile_tokens_(kTileRows / tile_heads_),
        head_blocks_((group_ + tile_heads_ - 1) / tile_heads_),
        out_(out),
        out_stride_(out_stride),
        tile_begin_(tile_begin) {
    tile_begin_[0] = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      tile_begin_[i + 1] = tile_begin_[i] + static_cast<size_t>(TokenTiles(batch[i])) *
                                                layer.n_kv_heads * head_blocks_;
    }
  }

  size_t tiles() const { return tile_begin_[batch_.size()]; }

  AttentionTile TileAt(size_t index) const {
    const size_t s =
        std::upper_bound(tile_begin_, tile_begin_ + batch_.size(), index) - tile_begin_ - 1;
    const SequenceRows& sequence = batch_[s];
    const int token_tiles = TokenTiles(sequence);
    const size_t within = index - tile_begin_[s];
    const int token = (token_tiles - 1 - static_cast<int>(within % token_tiles)) * tile_tokens_;
    const int head_block = static_cast<int>(within / token_tiles);

    AttentionTile tile;
    tile.pages = sequence.pages;
    tile.first_position = sequence.first_position + token;
    tile.tokens = std::min(tile_tokens_, sequence.rows - token);
    tile.kv_head = head_block / head_blocks_;
    const int head_in_group = head_block % head_blocks_ * tile_heads_;
    tile.first_head = tile.kv_head * group_ + head_in_group;
    tile.heads = std::min(tile_heads_, group_ - head_in_group);
    const size_t row = sequence.first_row + token;
    tile.q = q_ + row * q_stride_ + static_cast<size_t>(tile.first_head) * layer_.k_dim;
    tile.q_stride = q_stride_;
    tile.out = out_ + row * out_stride_ + static_cast<size_t>(tile.first_head) * layer_.v_dim;
    tile.out_stride = out_stride_;
    return tile;
  }

 private:
  int TokenTiles(const SequenceRows& sequence) const {
    return (sequence.rows + tile_tokens_ - 1) / tile_tokens_;
  }

  const float* q_;
  size_t q_stride_;
  std::span<const SequenceRows> batch_;
  const KvLayer& layer_;
  int group_;  // query heads a key-value head
  int tile_heads_;
  int tile_tokens_;
  int head_blocks_;  // blocks of tile_heads_ heads in a group
  float* out_;
  size_t out_stride_;
  size_t* tile_begin_;  // (batch.size() + 1): the number of each sequence's first tile
};

struct Splits {
  int begin;
  int end;
};

Splits SplitsOf(const AttentionTile& tile, const AttentionOptions& options) {
  const Positions visible = VisiblePositions(tile.first_position, tile.tokens, options.window);
  return {visible.begin / kSplitTokens, (visible.end - 1) / kSplitTokens + 1};
}

// Enough for both of the ways below, so that the first call of a layer's shape is the last to
// allocate: the second has fewer than 2 * threads tiles, a total each, and at most 8 * threads
// partials.
size_t WorkspaceFloats(const KvLayer& layer, const ThreadPool& pool) {
  return pool.threads() * (TileScratch::Floats(layer) + 10 * PartialSoftmax::Floats(layer));
}

// One task a tile; each goes through its splits on its own.
void AttendTiles(const Tiling& tiling, const KvLayer& layer, const AttentionOptions& options,
                 AttentionWorkspace& workspace, ThreadPool& pool) {
  const size_t partial_floats = PartialSoftmax::Floats(layer);
  const size_t thread_floats = TileScratch::Floats(layer) + 2 * partial_floats;
  float* memory = workspace.Floats(WorkspaceFloats(layer, pool));
  pool.ParallelFor(tiling.tiles(), [&](size_t task, int thread) {
    float* own = memory + thread * thread_floats;
    const PartialSoftmax total = PartialSoftmax::At(own);
    const PartialSoftmax partial = PartialSoftmax::At(own + partial_floats);
    const TileScratch scratch = TileScratch::At(own + 2 * partial_floats, layer);
    const AttentionTile tile = tiling.TileAt(task);
    const Splits splits = SplitsOf(tile, options);
    PackQueries(tile, layer, scratch);
    ClearPartial(tile, layer, total);
    for (int split = splits.begin; split < splits.end; ++split) {
      AttendSplit(tile, layer, options, split, scratch, partial);
      MergePartial(tile, layer, partial, total);
    }
    FinishTile(tile, layer, options, total);
  });
}

// One task a tile and split, in `rounds` rounds of `round` splits, which are merged in order after
// each.
void AttendSplits(const Tiling& tiling, int round, int rounds, const KvLayer& layer,
                  const AttentionOptions& options, AttentionWorkspace& workspace,
                  ThreadPool& pool) {
  const size_t tiles = tiling.tiles();
  const size_t partial_floats = PartialSoftmax::Floats(layer);
  const size_t scratch_floats = TileScratch::Floats(layer);
  float* totals = workspace.Floats(WorkspaceFloats(layer, pool));
  float* partials = totals + tiles * partial_floats;
  float* scratches = partials + tiles * round * partial_floats;
  for (size_t t = 0; t < tiles; ++t) {
    ClearPartial(tiling.TileAt(t), layer, PartialSoftmax::At(totals + t * partial_floats));
  }
  for (int r = 0; r < rounds; ++r) {
    pool.ParallelFor(tiles * round, [&](size_t task, int thread) {
      const AttentionTile tile = tiling.TileAt(task / round);
      const Splits splits = SplitsOf(tile, options);
      const int split = splits.begin + r * round + static_cast<int>(task % round);
      if (split >= splits.end) return;
      const TileScratch scratch = TileScratch::At(scratches + thread * scratch_floats, layer);
      PackQueries(tile, layer, scratch);
      AttendSplit(tile, layer, options, split, scratch,
                  PartialSoftmax::At(partials + task * partial_floats));
    });
    pool.ParallelFor(tiles, [&](size_t t, int) {
      const AttentionTile tile = tiling.TileAt(t);
      const Splits splits = SplitsOf(tile, options);
      const PartialSoftmax total = PartialSoftmax::At(totals + t * partial_floats);
      for (int i = 0; i < std::min(round, splits.end - splits.begin - r * round); ++i) {
        MergePartial(tile, layer, PartialSoftmax::At(partials + (t * round + i) * partial_floats),
                     total);
      }
      if (r == rounds - 1) FinishTile(tile, layer, options, total);
    });
  }
}

}  // namespace

float* AttentionWorkspace::Floats(size_t floats) {
  const size_t lines = (floats + 15) / 16;
  if (lines_.size() < lines) {
    lines_.clear();  // nothing to keep
    lines_.resize(lines);
  }
  return lines_.data()->floats;
}

size_t* AttentionWorkspace::Sizes(size_t count) {
  if (sizes_.size() < count) sizes_.resize(count);
  return sizes_.data();
}

void Attention(const float* q, size_t q_stride, std::span<const SequenceRows> batch,
               const KvLayer& layer, const AttentionOptions& options, float* out, size_t out_stride,
               AttentionWorkspace& workspace, ThreadPool& pool) {
  const Tiling tiling(q, q_stride, batch, layer, options, out, out_stride,
                      workspace.Sizes(batch.size() + 1));
  if (tiling.tiles() == 0) return;
  const size_t threads = pool.threads();
  if (threads > 1 && tiling.tiles() < 2 * threads) {
    int splits = 0;
    for (size_t i = 0; i < tiling.tiles(); ++i) {
      const Splits of_tile = SplitsOf(tiling.TileAt(i), options);
      splits = std::max(splits, of_tile.end - of_tile.begin);
    }
    if (splits > 1) {
      // Several tasks a thread even out the end of a round.
      const int round = std::min(splits, static_cast<int>(8 * threads / tiling.tiles()));
      AttendSplits(tiling, round, (splits + round - 1) / round, layer, options, workspace, pool);
      return;
    }
  }
  AttendTiles(tiling, layer, options, workspace, pool);
}

}  // namespace gguf_offload
