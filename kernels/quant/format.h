// The one table of GGUF tensor types: their numbers, names and block sizes.
//
// A GGUF tensor is a row-major array of blocks. Each block holds `block_elements` consecutive
// elements of one row in `block_bytes` bytes; a row is always a whole number of blocks. The numbers
// are those of the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md, enum ggml_type).
#ifndef KERNELS_QUANT_FORMAT_H_
#define KERNELS_QUANT_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gguf_offload::quant {

enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  // 4 and 5 were Q4_2 and Q4_3, retired.
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  // 31 to 33 were Q4_0_4_4 and its kin, 36 to 38 IQ4_NL_4_4 and its kin, retired.
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct Format {
  TensorType type;
  std::string_view name;    // as people write it: "Q4_K"
  uint32_t block_elements;  // elements a block; 1 for plain numbers
  uint32_t block_bytes;     // bytes a block
  bool dequantizable;       // has a float32 meaning that kernels/quant:dequantize computes
};

// The format of type number `type`, or nullptr if the number is unknown or retired.
const Format* FindFormat(uint32_t type);

// The format of a type that is known to exist.
const Format& FormatOf(TensorType type);

// The format named `name` ("Q4_K", case-sensitive), or nullptr.
const Format* FindFormatByName(std::string_view name);

// Bytes of a row of `elements` elements; `elements` must be a multiple of the block.
inline uint64_t RowBytes(const Format& format, uint64_t elements) {
  return elements / format.block_elements * format.block_bytes;
}

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_FORMAT_H_
