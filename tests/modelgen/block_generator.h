// Random but valid blocks of every quantized and floating-point type, fast.
//
// The codes of a block (nibbles, grid indexes, signs) are random bytes; its scales are chosen so
// that the dequantized values have mean zero and a given standard deviation. The bytes are a
// function of the seed and of their place in the tensor alone, so threads may generate any pieces
// in any order.
#ifndef TESTS_MODELGEN_BLOCK_GENERATOR_H_
#define TESTS_MODELGEN_BLOCK_GENERATOR_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/quant/format.h"
#include "tests/modelgen/block_scales.h"

namespace gguf_offload {

// Generates one tensor's blocks. Immutable, so any number of threads may call Generate().
class BlockGenerator {
 public:
  // `type` must be supported. `mean` is for F32 only (norms have mean one); quantized blocks have
  // mean zero. `deviation` > 0: the values' standard deviation, to be met within a third or so.
  BlockGenerator(quant::TensorType type, uint64_t seed, double mean, double deviation);

  // True of F32, F16, BF16 and all quantized weight types.
  static bool Supports(quant::TensorType type);

  // Writes the blocks [first, first + blocks) of the tensor to `out`.
  void Generate(uint64_t first, uint64_t blocks, uint8_t* out) const;

 private:
  quant::TensorType type_;
  uint64_t seed_;
  float mean_;
  float step_ = 0;                        // F32: what one unit of the random integer is worth
  std::array<uint16_t, 256> scales_{};    // half-precision scales, all of about the right size
  std::array<uint16_t, 256> offsets_{};   // half-precision offsets that go with them
  std::array<uint16_t, 512> elements_{};  // F16, BF16: the elements' possible values
  CoarseScale coarse_;                    // MXFP4, NVFP4
};

// The seed of the tensor `name` in a model with seed `seed`: a tensor keeps its bytes when others
// are left out.
uint64_t TensorSeed(uint64_t seed, std::string_view name);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_BLOCK_GENERATOR_H_
