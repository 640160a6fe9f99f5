// The integer kernel: sixteen rows of quantized weights times panels of 8-bit activations.
// Compiled once a SIMD target.
//
// A slab of columns of the tile is unpacked to bytes, its words transposed so that one vector holds
// four columns of all sixteen rows, and then multiplied with every panel while it is in the cache.
#if defined(KERNELS_MATMUL_INTEGER_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_MATMUL_INTEGER_TILE_INL_H_
#undef KERNELS_MATMUL_INTEGER_TILE_INL_H_
#else
#define KERNELS_MATMUL_INTEGER_TILE_INL_H_
#endif

#include <algorithm>
#include <utility>

#include "kernels/matmul/rows16-inl.h"
#include "kernels/matmul/tile_kernels.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {

// Columns [begin, begin + cols) of the tile; cols <= kMaxBlockElements, both multiples of the
// block. Names the corresponding part of the next tile to be prefetched meanwhile: the rows of a
// tile are one piece of memory, and the next tile is gone through from end to end.
inline quant::TileBlocks ChunkOf(const WeightTile& tile, size_t begin, size_t cols) {
  const quant::Format& format = quant::FormatOf(tile.type);
  const size_t begin_bytes = quant::RowBytes(format, begin);
  const size_t ahead = tile.rows * begin_bytes;
  const size_t ahead_bytes = tile.rows * quant::RowBytes(format, cols);
  const bool is_ahead = ahead < tile.bytes_after;
  return {tile.data + begin_bytes,
          tile.row_bytes,
          tile.rows,
          cols,
          tile.data + tile.rows * tile.row_bytes + (is_ahead ? ahead : 0),
          is_ahead ? std::min(ahead_bytes, tile.bytes_after - ahead) : 0};
}

// Unpacks columns [begin, begin + cols) of the tile to the slab; cols <= kSlabCols.
inline void UnpackSlab(const WeightTile& tile, const quant::Unpacker& unpacker, size_t begin,
                       size_t cols, TileScratch& scratch) {
  constexpr size_t kChunk = quant::kMaxBlockElements;
  for (size_t done = 0; done < cols; done += kChunk) {
    const size_t group = done / unpacker.group_elements;
    unpacker.tile(ChunkOf(tile, begin + done, std::min(kChunk, cols - done)),
                  {scratch.slab + done * kTileRows, scratch.slab_scales + group * kTileRows,
                   scratch.slab_offsets + group * kTileRows});
  }
}

// Adds the products of the slab, `cols` columns from column `begin` on, with kTokens tokens of a
// panel from token `first` on to sums (kTokens, 16).
template <int kTokens, int kGroupElements, bool kHasOffset>
inline void MultiplySlab(const TileScratch& scratch, size_t begin, size_t cols,
                         const ActivationPanel& panel, int first, float* HWY_RESTRICT sums) {
  constexpr size_t kGroupsOf32 = 32 / kGroupElements;
  constexpr size_t kQuads = kGroupElements / 4;
  const size_t stride = panel.tokens;
  const int8_t* HWY_RESTRICT values = panel.values + (begin * stride + 32 * first);
  const float* HWY_RESTRICT activation_scales = panel.scales + begin / 32 * stride + first;
  const size_t first_group = begin / kGroupElements * stride + first;
  const int32_t* HWY_RESTRICT initial_sums = panel.initial_sums + first_group;
  const float* HWY_RESTRICT scaled_sums = panel.scaled_sums + first_group;
  const uint8_t* HWY_RESTRICT weights = scratch.slab;
  const float* HWY_RESTRICT scales = scratch.slab_scales;
  const float* HWY_RESTRICT offsets = scratch.slab_offsets;

  Floats16 sum[kTokens];
  for (int t = 0; t < kTokens; ++t) sum[t] = Floats16::Load(sums + t * kTileRows);
  for (size_t c = 0; c < cols; c += 32) {
    for (size_t part = 0; part < kGroupsOf32; ++part) {
      Ints16 dot[kTokens];
      for (int t = 0; t < kTokens; ++t) dot[t] = Ints16::Broadcast(initial_sums[t]);
      for (size_t quad = 0; quad < kQuads; ++quad) {
        const Quads16 quads = Quads16::Load(weights);
        weights += 4 * kTileRows;
        for (int t = 0; t < kTokens; ++t) {
          dot[t].AddDotProducts(quads, values + 32 * t + part * kGroupElements + 4 * quad);
        }
      }
      const Floats16 scale = Floats16::Load(scales);
      for (int t = 0; t < kTokens; ++t) {
        sum[t].AddProduct(dot[t].Scaled(activation_scales[t]), scale);
      }
      if constexpr (kHasOffset) {
        const Floats16 offset = Floats16::Load(offsets);
        for (int t = 0; t < kTokens; ++t) {
          sum[t].AddProduct(offset, Floats16::Broadcast(scaled_sums[t]));
        }
        offsets += kTileRows;
        scaled_sums += stride;
      }
      scales += kTileRows;
      initial_sums += stride;
    }
    values += 32 * stride;
    activation_scales += stride;
  }
  for (int t = 0; t < kTokens; ++t) sum[t].Store(sums + t * kTileRows);
}

using MultiplyFunction = void (*)(const TileScratch& scratch, size_t begin, size_t cols,
                                  const ActivationPanel& panel, int first, float* sums);

// As many tokens at once as registers allow.
constexpr int kTokensAtOnce = HWY_TARGET == HWY_AVX3_DL ? kPanelTokens : 2;

template <int kGroupElements, bool kHasOffset, int... kTokens>
MultiplyFunction ChooseAmong(int tokens, std::integer_sequence<int, kTokens...>) {
  static constexpr MultiplyFunction kFunctions[] = {
      &MultiplySlab<kTokens + 1, kGroupElements, kHasOffset>...};
  return kFunctions[tokens - 1];
}

inline MultiplyFunction ChooseMultiply(const quant::Unpacker& unpacker, int tokens) {
  constexpr std::make_integer_sequence<int, kTokensAtOnce> kAll;
  if (unpacker.group_elements == 16) {
    return unpacker.has_offset ? ChooseAmong<16, true>(tokens, kAll)
                               : ChooseAmong<16, false>(tokens, kAll);
  }
  return unpacker.has_offset ? ChooseAmong<32, true>(tokens, kAll)
                             : ChooseAmong<32, false>(tokens, kAll);
}

#if HWY_TARGET == HWY_AVX3_DL

// The same sums for one token. Weights are used but once, so they are not brought into the slab.
template <int kGroupElements, bool kHasOffset>
inline void MultiplyOneToken(const WeightTile& tile, const quant::Unpacker& unpacker,
                             const ActivationPanel& panel, TileScratch& scratch, float* sums) {
  constexpr size_t kGroupsOf32 = 32 / kGroupElements;
  constexpr size_t kChunk = quant::kMaxBlockElements;
  Floats16 sum = Floats16::Broadcast(0.0f);
  for (size_t begin = 0; begin < tile.cols; begin += kChunk) {
    const size_t cols = std::min(kChunk, tile.cols - begin);
    unpacker.dot(ChunkOf(tile, begin, cols), panel.values + begin,
                 {scratch.dot_products, scratch.slab_scales, scratch.slab_offsets});
    const size_t first_group = begin / kGroupElements;
    for (size_t group = 0; group < cols / kGroupElements; ++group) {
      const Ints16 dot = Ints16::LoadPlus(scratch.dot_products + group * kTileRows,
                                          panel.initial_sums[first_group + group]);
      const float activation_scale = panel.scales[(first_group + group) / kGroupsOf32];
      sum.AddProduct(dot.Scaled(activation_scale),
                     Floats16::Load(scratch.slab_scales + group * kTileRows));
      if constexpr (kHasOffset) {
        sum.AddProduct(Floats16::Load(scratch.slab_offsets + group * kTileRows),
                       Floats16::Broadcast(panel.scaled_sums[first_group + group]));
      }
    }
  }
  sum.Store(sums);
}

inline void MultiplyOneToken(const WeightTile& tile, const quant::Unpacker& unpacker,
                             const ActivationPanel& panel, TileScratch& scratch, float* sums) {
  const bool by_16 = unpacker.group_elements == 16;
  const auto multiply = unpacker.has_offset
                            ? (by_16 ? &MultiplyOneToken<16, true> : &MultiplyOneToken<32, true>)
                            : (by_16 ? &MultiplyOneToken<16, false> : &MultiplyOneToken<32, false>);
  multiply(tile, unpacker, panel, scratch, sums);
}

#endif

void MultiplyIntegerTile(const WeightTile& tile, const quant::Unpacker& unpacker,
                         const ActivationPanel* panels, int panel_count, TileScratch& scratch,
                         float* sums) {
#if HWY_TARGET == HWY_AVX3_DL
  if (panel_count == 1 && panels[0].tokens == 1) {
    return MultiplyOneToken(tile, unpacker, panels[0], scratch, sums);
  }
#endif
  std::fill_n(sums, static_cast<size_t>(panel_count) * kPanelTokens * kTileRows, 0.0f);
  // A single panel uses weights once, so they need not outlive one unpacking.
  const size_t slab_cols = panel_count == 1 ? quant::kMaxBlockElements : kSlabCols;
  for (size_t begin = 0; begin < tile.cols; begin += slab_cols) {
    const size_t cols = std::min(slab_cols, tile.cols - begin);
    UnpackSlab(tile, unpacker, begin, cols, scratch);
    for (int p = 0; p < panel_count; ++p) {
      for (int first = 0; first < panels[p].tokens; first += kTokensAtOnce) {
        const int tokens = std::min(kTokensAtOnce, panels[p].tokens - first);
        ChooseMultiply(unpacker, tokens)(scratch, begin, cols, panels[p], first,
                                         sums + (p * kPanelTokens + first) * kTileRows);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_MATMUL_INTEGER_TILE_INL_H_
