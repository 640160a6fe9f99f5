// The float kernel: rows of any weights, expanded to float32, times float32 activations.
// Compiled once a SIMD target.
#if defined(KERNELS_MATMUL_FLOAT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_MATMUL_FLOAT_TILE_INL_H_
#undef KERNELS_MATMUL_FLOAT_TILE_INL_H_
#else
#define KERNELS_MATMUL_FLOAT_TILE_INL_H_
#endif

#include <algorithm>

#include "kernels/matmul/rows16-inl.h"
#include "kernels/matmul/tile_kernels.h"
#include "kernels/quant/dequantize.h"

GGUF_OFFLOAD_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {

// Adds to lane_sums (kTokens, kFloatRows, 16) the products of `cols` columns (a multiple of 16) of
// weights (kFloatRows, kSlabCols) and of kTokens rows of x, row stride x_stride.
template <int kTokens>
inline void MultiplyFloats(const float* HWY_RESTRICT weights, size_t cols,
                           const float* HWY_RESTRICT x, int64_t x_stride,
                           float* HWY_RESTRICT lane_sums) {
  const FloatTag d;
  hn::Vec<FloatTag> sum[kTokens][kFloatRows][kParts];
  for (int t = 0; t < kTokens; ++t) {
    for (int row = 0; row < kFloatRows; ++row) {
      for (size_t i = 0; i < kParts; ++i) {
        sum[t][row][i] = hn::Load(d, lane_sums + (t * kFloatRows + row) * 16 + i * kLanes);
      }
    }
  }
  for (size_t c = 0; c < cols; c += 16) {
    for (size_t i = 0; i < kParts; ++i) {
      hn::Vec<FloatTag> weight[kFloatRows];
      for (int row = 0; row < kFloatRows; ++row) {
        weight[row] = hn::Load(d, weights + row * kSlabCols + c + i * kLanes);
      }
      for (int t = 0; t < kTokens; ++t) {
        const auto activation = hn::LoadU(d, x + t * x_stride + c + i * kLanes);
        for (int row = 0; row < kFloatRows; ++row) {
          sum[t][row][i] = hn::MulAdd(weight[row], activation, sum[t][row][i]);
        }
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int row = 0; row < kFloatRows; ++row) {
      for (size_t i = 0; i < kParts; ++i) {
        hn::Store(sum[t][row][i], d, lane_sums + (t * kFloatRows + row) * 16 + i * kLanes);
      }
    }
  }
}

inline void MultiplyFloatsOfAll(const float* weights, size_t cols, const float* x, int64_t x_stride,
                                int n, float* lane_sums) {
  // As many at once as registers allow.
  constexpr int kTokensAtOnce = HWY_TARGET == HWY_AVX3_DL ? 4 : 1;
  int token = 0;
  for (; n - token >= kTokensAtOnce; token += kTokensAtOnce) {
    MultiplyFloats<kTokensAtOnce>(weights, cols, x + token * x_stride, x_stride,
                                  lane_sums + token * kFloatRows * 16);
  }
  for (; token < n; ++token) {
    MultiplyFloats<1>(weights, cols, x + token * x_stride, x_stride,
                      lane_sums + token * kFloatRows * 16);
  }
}

// Asks for `bytes` bytes from `offset` bytes after the tile's beginning on to be in the
// second-level cache soon, as far as the matrix has them.
HWY_INLINE void PrefetchAhead(const WeightTile& tile, size_t offset, size_t bytes) {
  const size_t end = tile.rows * tile.row_bytes + tile.bytes_after;
  if (offset >= end) return;
  bytes = std::min(bytes, end - offset);
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(tile.data + offset + i, 0, 2);
}

// Adds the sixteen lanes, halves first. Destroys them.
HWY_INLINE float AddLanes(float* lanes) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

void MultiplyFloatTile(const WeightTile& tile, const float* x, int64_t x_stride, int n,
                       TileScratch& scratch, float* lane_sums, float* sums) {
  const quant::Format& format = quant::FormatOf(tile.type);
  for (int first = 0; first < tile.rows; first += kFloatRows) {
    const int rows = std::min(kFloatRows, tile.rows - first);
    std::fill_n(lane_sums, static_cast<size_t>(n) * kFloatRows * 16, 0.0f);
    for (size_t begin = 0; begin < tile.cols; begin += kSlabCols) {
      const size_t cols = std::min(kSlabCols, tile.cols - begin);
      const size_t padded_cols = (cols + 15) / 16 * 16;
      const size_t begin_bytes = quant::RowBytes(format, begin);
      for (int row = 0; row < rows; ++row) {
        const size_t at = (first + row) * tile.row_bytes + begin_bytes;
        PrefetchAhead(tile, at + kFloatRows * tile.row_bytes, quant::RowBytes(format, cols));
        float* expanded = scratch.floats + row * kSlabCols;
        quant::Dequantize(tile.type, tile.data + at, cols, expanded);
        std::fill(expanded + cols, expanded + padded_cols, 0.0f);
      }
      MultiplyFloatsOfAll(scratch.floats, padded_cols, x + begin, x_stride, n, lane_sums);
    }
    for (int token = 0; token < n; ++token) {
      for (int row = 0; row < rows; ++row) {
        sums[token * kTileRows + first + row] =
            AddLanes(lane_sums + (token * kFloatRows + row) * 16);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
GGUF_OFFLOAD_AFTER_NAMESPACE();

#endif  // KERNELS_MATMUL_FLOAT_TILE_INL_H_
