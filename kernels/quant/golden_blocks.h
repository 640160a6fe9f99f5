// Test data: random blocks of each type with the float32 values that other programs gave them.
#ifndef KERNELS_QUANT_GOLDEN_BLOCKS_H_
#define KERNELS_QUANT_GOLDEN_BLOCKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/quant/format.h"

namespace gguf_offload::quant {

struct GoldenBlocks {
  std::string name;             // of the type
  uint32_t type_number;         // as the other programs know it
  uint32_t block_elements;      // likewise
  uint32_t block_bytes;         // likewise
  std::vector<uint8_t> blocks;  // as in a file
  std::vector<float> values;    // their meaning

  TensorType type() const { return static_cast<TensorType>(type_number); }
};

// All types of tests/testdata/golden/dequant. Throws if the data cannot be read.
const std::vector<GoldenBlocks>& AllGoldenBlocks();

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_GOLDEN_BLOCKS_H_
