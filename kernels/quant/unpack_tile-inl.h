// Unpacker::tile and Unpacker::dot, for any decoder. Compiled once a SIMD target.
#if defined(KERNELS_QUANT_UNPACK_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_UNPACK_TILE_INL_H_
#undef KERNELS_QUANT_UNPACK_TILE_INL_H_
#else
#define KERNELS_QUANT_UNPACK_TILE_INL_H_
#endif

#include <cstring>

#include "kernels/quant/attributes-inl.h"
#include "kernels/quant/bytes-inl.h"
#include "kernels/quant/transpose-inl.h"
#include "kernels/quant/unpack.h"
#include "kernels/quant/unpack_rows-inl.h"
#include "kernels/quant/words-inl.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload::quant {
namespace HWY_NAMESPACE {

// Working memory of UnpackTile. Strides that are no powers of two keep the rows of a column in
// different sets of the cache.
struct TileRows {
  static constexpr size_t kStride = kMaxBlockElements + 64;
  static constexpr size_t kGroupStride = kMaxBlockElements / 16 + 8;
  alignas(64) uint8_t u[kTileRows * kStride];
  alignas(64) float scale[kTileRows * kGroupStride];
  alignas(64) float offset[kTileRows * kGroupStride];
};

#if HWY_TARGET == HWY_AVX3_DL

template <typename Decoder>
HWY_INLINE void UnpackTileScales(const TileBlocks& in, TileRows&, float* scales, float* offsets) {
  constexpr size_t kGroups = Decoder::kBlockElements / Decoder::kGroupElements;
  const size_t blocks = in.elements / Decoder::kBlockElements;
  for (size_t b = 0; b < blocks; ++b) {
    const uint8_t* block = in.blocks + b * Decoder::kBlockBytes;
    Words16 words_of_rows[kScaleWords<Decoder>];
    for (size_t i = 0; i < kScaleWords<Decoder>; ++i) {
      words_of_rows[i] = LoadWords16(block + Decoder::kScaleWordsAt[i], in.row_bytes);
    }
    Floats16 scale[kGroups], offset[kGroups];
    Decoder::Scales(words_of_rows, scale, offset);
    memcpy(scales + b * kGroups * kTileRows, scale, sizeof(scale));
    if constexpr (Decoder::kHasOffset) {
      memcpy(offsets + b * kGroups * kTileRows, offset, sizeof(offset));
    }
  }
}

#else

template <typename Decoder>
HWY_INLINE void UnpackTileScales(const TileBlocks& in, TileRows& rows, float* scales,
                                 float* offsets) {
  constexpr size_t kGroups = Decoder::kBlockElements / Decoder::kGroupElements;
  const size_t blocks = in.elements / Decoder::kBlockElements;
  for (size_t row = 0; row < kTileRows; ++row) {
    const uint8_t* block = in.blocks + row * in.row_bytes;
    const size_t first = row * TileRows::kGroupStride;
    for (size_t b = 0; b < blocks; ++b) {
      UnpackScales<Decoder>(block + b * Decoder::kBlockBytes, rows.scale + first + b * kGroups,
                            rows.offset + first + b * kGroups);
    }
  }
  constexpr size_t kStrideBytes = TileRows::kGroupStride * sizeof(float);
  for (size_t group = 0; group < blocks * kGroups; group += 8) {
    TransposeWords16x8(rows.scale + group, kStrideBytes, scales + group * kTileRows);
    if constexpr (Decoder::kHasOffset) {
      TransposeWords16x8(rows.offset + group, kStrideBytes, offsets + group * kTileRows);
    }
  }
}

#endif

// Asks for bytes [begin, end) to be in the second-level cache soon.
HWY_INLINE void Prefetch(const uint8_t* begin, const uint8_t* end) {
  for (; begin < end; begin += 64) __builtin_prefetch(begin, 0, 2);
}

// What UnpackTile and DotTile do with each run of 32 columns.
#if HWY_TARGET == HWY_AVX3_DL

class StoreRuns {
 public:
  explicit StoreRuns(uint8_t* u) : u_(u) {}

  template <typename LoadPair>
  HWY_INLINE void operator()(const LoadPair& load_pair) {
    TransposePairs16x8(load_pair, u_);
    u_ += 32 * kTileRows;
  }

 private:
  uint8_t* u_;
};

template <int kGroupElements>
class MultiplyRuns {
 public:
  MultiplyRuns(const int8_t* activations, int32_t* sums) : activations_(activations), sums_(sums) {}

  template <typename LoadPair>
  HWY_INLINE void operator()(const LoadPair& load_pair) {
    const HalfSums sums = DotPairs16x32(load_pair, activations_);
    activations_ += 32;
    if constexpr (kGroupElements == 16) {
      _mm512_store_si512(sums_, sums.first);
      _mm512_store_si512(sums_ + kTileRows, sums.last);
      sums_ += 2 * kTileRows;
    } else {
      _mm512_store_si512(sums_, _mm512_add_epi32(sums.first, sums.last));
      sums_ += kTileRows;
    }
  }

 private:
  const int8_t* activations_;
  int32_t* sums_;
};

#endif

// Unpacks the rows as such, where there is no better way to take them sixteen at a time.
template <typename Decoder>
HWY_INLINE void UnpackToRows(const TileBlocks& in, TileRows& rows) {
  for (size_t row = 0; row < kTileRows; ++row) {
    const uint8_t* block = in.blocks + row * in.row_bytes;
    uint8_t* u = rows.u + row * TileRows::kStride;
    for (size_t done = 0; done < in.elements; done += Decoder::kBlockElements) {
      UnpackValues<Decoder>(block, u + done);
      block += Decoder::kBlockBytes;
    }
  }
}

#if HWY_TARGET == HWY_AVX3_DL

// Calls use(load_pair) for each run of 32 columns, where load_pair(row) gives the run's bytes of
// rows `row` and `row` + 4.
template <typename Decoder, typename UseRun>
HWY_INLINE void ForEachRunOfTile(const TileBlocks& in, TileRows& rows, UseRun use) {
  const uint8_t* ahead = in.ahead;
  const size_t ahead_a_run = in.ahead_bytes * 32 / in.elements;
  if constexpr (kHasRunTemplate<Decoder>) {
    const uint8_t* blocks = in.blocks;
    const size_t stride = in.row_bytes;
    for (size_t done = 0; done < in.elements; done += Decoder::kBlockElements) {
      ForEachRun<Decoder>([&](int run) INLINE_LAMBDA {
        use([&](size_t row) INLINE_LAMBDA {
          const uint8_t* first = blocks + row * stride;
          return Decoder::template Run<Bytes64>({first, first + 4 * stride}, run).vector();
        });
        Prefetch(ahead, ahead + ahead_a_run);
        ahead += ahead_a_run;
      });
      blocks += Decoder::kBlockBytes;
    }
  } else {
    UnpackToRows<Decoder>(in, rows);
    for (size_t done = 0; done < in.elements; done += 32) {
      use([&](size_t row) INLINE_LAMBDA {
        const uint8_t* first = rows.u + row * TileRows::kStride + done;
        return Bytes64::Load({first, first + 4 * TileRows::kStride}, 0).vector();
      });
      Prefetch(ahead, ahead + ahead_a_run);
      ahead += ahead_a_run;
    }
  }
}

template <typename Decoder>
HWY_NOINLINE void UnpackWholeTile(const TileBlocks& in, const UnpackedTile& out) {
  TileRows rows;
  UnpackTileScales<Decoder>(in, rows, out.scale, out.offset);
  ForEachRunOfTile<Decoder>(in, rows, StoreRuns(out.u));
}

template <typename Decoder>
HWY_NOINLINE void DotWholeTile(const TileBlocks& in, const int8_t* activations,
                               const TileDotProducts& out) {
  TileRows rows;
  UnpackTileScales<Decoder>(in, rows, out.scale, out.offset);
  ForEachRunOfTile<Decoder>(in, rows, MultiplyRuns<Decoder::kGroupElements>(activations, out.sums));
}

#else

template <typename Decoder>
HWY_NOINLINE void UnpackWholeTile(const TileBlocks& in, const UnpackedTile& out) {
  TileRows rows;
  UnpackTileScales<Decoder>(in, rows, out.scale, out.offset);
  UnpackToRows<Decoder>(in, rows);
  const uint8_t* ahead = in.ahead;
  const size_t ahead_a_run = in.ahead_bytes * 32 / in.elements;
  for (size_t done = 0; done < in.elements; done += 32) {
    TransposeWords16x8(rows.u + done, TileRows::kStride, out.u + done * kTileRows);
    Prefetch(ahead, ahead + ahead_a_run);
    ahead += ahead_a_run;
  }
}

#endif

// The last rows of a matrix: read as a whole tile, memory behind them would be read too.
template <typename Decoder>
struct CompletedTile {
  static constexpr size_t kRowBytes =
      kMaxBlockElements / Decoder::kBlockElements * Decoder::kBlockBytes;
  uint8_t copy[kTileRows * kRowBytes] = {};
  TileBlocks tile;

  explicit CompletedTile(const TileBlocks& in) : tile(in) {
    const size_t bytes = in.elements / Decoder::kBlockElements * Decoder::kBlockBytes;
    for (int row = 0; row < in.rows; ++row) {
      memcpy(copy + row * kRowBytes, in.blocks + row * in.row_bytes, bytes);
    }
    tile.blocks = copy;
    tile.row_bytes = kRowBytes;
  }
};

template <typename Decoder>
void UnpackTile(const TileBlocks& in, const UnpackedTile& out) {
  if (in.rows == kTileRows) return UnpackWholeTile<Decoder>(in, out);
  UnpackWholeTile<Decoder>(CompletedTile<Decoder>(in).tile, out);
}

#if HWY_TARGET == HWY_AVX3_DL

template <typename Decoder>
void DotTile(const TileBlocks& in, const int8_t* activations, const TileDotProducts& out) {
  if (in.rows == kTileRows) return DotWholeTile<Decoder>(in, activations, out);
  DotWholeTile<Decoder>(CompletedTile<Decoder>(in).tile, activations, out);
}

template <typename Decoder>
constexpr decltype(Unpacker::dot) kDotTile = &DotTile<Decoder>;

#else

template <typename Decoder>
constexpr decltype(Unpacker::dot) kDotTile = nullptr;

#endif

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload::quant
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_QUANT_UNPACK_TILE_INL_H_
