// The inner kernels of matrix multiplication, one set for each instruction set.
//
// Both multiply one tile, up to kTileRows rows of a weight matrix, with all tokens. The order of
// additions is part of the contract, so that results are the same for any number of tokens:
//  - integer: one float32 sum a (row, token), groups of columns in order,
//      sum = fma(float(integer dot product of the group) * activation scale, weight scale, sum),
//      then for formats with offsets sum = fma(offset, scaled sum of activations, sum);
//  - float: sixteen sums a (row, token), sum i = fma(w[c], x[c], sum i) over the columns c that are
//      i modulo 16 in order, and at the end halves are added: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
#ifndef KERNELS_MATMUL_TILE_KERNELS_H_
#define KERNELS_MATMUL_TILE_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/quant/format.h"
#include "kernels/quant/unpack.h"

namespace gguf_offload {

using quant::kTileRows;
inline constexpr int kPanelTokens = 8;

// One panel of quantized activations: see quantized_activations.h. `group` is the group size of the
// weights.
struct ActivationPanel {
  int tokens;                   // 1 to kPanelTokens
  const int8_t* values;         // (cols / 32, tokens, 32)
  const float* scales;          // (cols / 32, tokens)
  const int32_t* initial_sums;  // (cols / group, tokens): -bias * sum of values
  const float* scaled_sums;     // (cols / group, tokens): scale * sum of values
};

// Rows of weights and what lies behind them, which the kernels prefetch as they go.
struct WeightTile {
  quant::TensorType type;
  const uint8_t* data;  // (rows, cols), blocks
  size_t row_bytes;
  int rows;  // 1 to kTileRows
  size_t cols;
  size_t bytes_after;  // bytes of the same matrix that follow the tile
};

// Columns multiplied at a time: what stays in a first-level cache of 32 KiB together with a panel
// of activations.
inline constexpr size_t kSlabCols = 1024;

// Rows the float kernel expands at a time.
inline constexpr int kFloatRows = 4;

// Working memory of the kernels, one a thread. Zero at first, then the kernels' own.
struct alignas(64) TileScratch {
  // Unpacked weights, transposed: see quant::UnpackedTile. Groups are those of the format.
  uint8_t slab[kSlabCols * kTileRows];             // (cols / 4, 16, 4)
  float slab_scales[kSlabCols / 16 * kTileRows];   // (groups, 16)
  float slab_offsets[kSlabCols / 16 * kTileRows];  // (groups, 16)

  int32_t dot_products[quant::kMaxBlockElements / 16 * kTileRows];  // (groups, 16)

  float floats[kFloatRows * kSlabCols];  // (kFloatRows, kSlabCols)
};

struct TileKernels {
  // Quantizes one panel. x: (tokens, cols), row stride x_stride; values and scales as in
  // ActivationPanel; sums: (cols / 16, tokens) sums of values.
  void (*quantize)(const float* x, int64_t x_stride, int tokens, size_t cols, int8_t* values,
                   float* scales, int32_t* sums);

  // Sums of a tile with the tokens of `panel_count` panels: (panel_count * kPanelTokens,
  // kTileRows); those of rows and tokens that do not exist are unspecified.
  void (*integer_tile)(const WeightTile& tile, const quant::Unpacker& unpacker,
                       const ActivationPanel* panels, int panel_count, TileScratch& scratch,
                       float* sums);

  // The same with float32 activations. x: (n, cols rounded up to 16), row stride x_stride, zeros
  // behind cols. lane_sums: (n, kFloatRows, 16), working memory. sums: (n, kTileRows).
  void (*float_tile)(const WeightTile& tile, const float* x, int64_t x_stride, int n,
                     TileScratch& scratch, float* lane_sums, float* sums);
};

// The kernels for this processor.
const TileKernels& FindTileKernels();

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_TILE_KERNELS_H_
