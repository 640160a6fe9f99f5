// The one decoder of each quantized format.
//
// Every quantized format unpacks to the same intermediate: elements come in groups of 16 or 32, and
//   value = scale[group] * (u - bias) + offset[group]
// with u an unsigned byte, `bias` a constant of the format, scale and offset float32. So a format
// is told once, here; dequantization and the integer dot product are loops that know no format.
#ifndef KERNELS_QUANT_UNPACK_H_
#define KERNELS_QUANT_UNPACK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::quant {

// Where the elements of a few rows go. Strides are in elements of the array.
struct UnpackedRows {
  uint8_t* u;           // (rows, elements)
  size_t u_stride;      // at least `elements`
  float* scale;         // (rows, elements / group_elements)
  float* offset;        // the same; not touched unless the format has offsets
  size_t group_stride;  // of scale and offset
};

inline constexpr int kTileRows = 16;

// The most elements of a block, and of a row of a tile. Rows may be cut at every multiple of it.
inline constexpr size_t kMaxBlockElements = 256;

// Up to sixteen rows of blocks, row r at blocks + r * row_bytes.
struct TileBlocks {
  const uint8_t* blocks;
  size_t row_bytes;
  int rows;              // 1 to kTileRows
  size_t elements;       // of each row; at most kMaxBlockElements
  const uint8_t* ahead;  // what will be read soon: prefetched bit by bit
  size_t ahead_bytes;
};

// Where a tile goes, transposed so that four consecutive elements of all rows lie together. Aligned
// to 64 bytes. Numbers of rows that do not exist are unspecified; there is room for a multiple of
// eight groups.
struct UnpackedTile {
  uint8_t* u;     // (elements / 4, kTileRows, 4)
  float* scale;   // (elements / group_elements, kTileRows)
  float* offset;  // the same; not touched unless the format has offsets
};

// Where the dot products of a tile with activations go; aligned and padded as UnpackedTile.
struct TileDotProducts {
  int32_t* sums;  // (elements / group_elements, kTileRows): sum of u * activation, no bias
  float* scale;   // (elements / group_elements, kTileRows)
  float* offset;  // the same; not touched unless the format has offsets
};

// Of all functions: elements are a multiple of the block, nothing beyond the blocks is read, and
// any bits are valid (scales may then be infinite or not a number).
struct Unpacker {
  // Unpacks `elements` elements of each of `rows` rows. Row r begins at blocks + r * row_bytes.
  void (*rows)(const uint8_t* blocks, size_t row_bytes, size_t rows, size_t elements,
               const UnpackedRows& out);
  void (*tile)(const TileBlocks& in, const UnpackedTile& out);
  // Multiplies with one vector of activations (elements) without unpacking to memory: the shortest
  // way if weights are used but once. Null where the processor has no instruction for it.
  void (*dot)(const TileBlocks& in, const int8_t* activations, const TileDotProducts& out);
  int bias;
  int group_elements;  // 16 or 32
  bool has_offset;
};

// The unpacker of `type` for this processor, or nullptr if the type is one of plain numbers (F32,
// F16, BF16, I8, ...) or is not dequantizable.
const Unpacker* FindUnpacker(TensorType type);

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_UNPACK_H_
