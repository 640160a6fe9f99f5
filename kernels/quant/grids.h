// The constant tables of the IQ formats, as the unpackers want them: one 64-bit (or 32-bit) word
// holds the bytes of one grid entry, value 0 in the lowest byte.
//
// The grids are part of the file formats (github.com/ggml-org/ggml, src/ggml-common.h); they are
// kept at two or three bits a value in grid_constants.h and expanded at compile time.
#ifndef KERNELS_QUANT_GRIDS_H_
#define KERNELS_QUANT_GRIDS_H_

#include <array>
#include <cstdint>

namespace gguf_offload::quant {

// Eight magnitudes an entry, each 8, 25 or 43.
extern const std::array<uint64_t, 256> kGridIq2Xxs;
extern const std::array<uint64_t, 512> kGridIq2Xs;
extern const std::array<uint64_t, 1024> kGridIq2S;

// Four magnitudes an entry: of IQ3_XXS 4 to 62, of IQ3_S odd numbers to 15.
extern const std::array<uint32_t, 256> kGridIq3Xxs;
extern const std::array<uint32_t, 512> kGridIq3S;

// Eight values an entry of -1, 0 or 1, stored as 8 * (value + 1): see the unpacker of IQ1_S.
extern const std::array<uint64_t, 2048> kGridIq1S;

// kSignBytes[signs]: byte j is 0xff if bit j of `signs` is set, else 0.
extern const std::array<uint64_t, 256> kSignBytes;

// The eighth sign of a group of eight is not stored: the number of negative signs is even.
constexpr uint8_t SignsOfSevenBits(uint32_t stored) {
  return static_cast<uint8_t>(stored | (static_cast<uint32_t>(__builtin_parity(stored)) << 7));
}

// The sixteen values of IQ4_NL and IQ4_XS, and twice the values of the E2M1 numbers of MXFP4 and
// NVFP4, all plus 128.
extern const std::array<uint8_t, 16> kValuesIq4Nl;
extern const std::array<uint8_t, 16> kValuesFp4;

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_GRIDS_H_
