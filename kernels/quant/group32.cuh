// What the decoders of single groups are made of: the group itself, loads from blocks of any
// alignment, arithmetic on four bytes in a register, and numbers from their bits. Host and device;
// without CUDA the same code compiles as plain C++.
#ifndef KERNELS_QUANT_GROUP32_CUH_
#define KERNELS_QUANT_GROUP32_CUH_

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/quant/format.h"
#include "kernels/quant/numbers.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define GGUF_OFFLOAD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GGUF_OFFLOAD_HOST_DEVICE inline
#endif
#ifdef __CUDA_ARCH__
#define GGUF_OFFLOAD_UNROLL _Pragma("unroll")
#else
#define GGUF_OFFLOAD_UNROLL
#endif

namespace gguf_offload::cuda {

// 32 consecutive elements of a row, the unit of every quantized kernel:
//   value[i] = scale[i / 16] * q[i] + offset[i / 16]
struct Group32 {
  uint32_t q[8];    // 32 bytes: element 4 * w + b in byte b of q[w]; signed unless kUnsignedBytes
  float scale[2];   // equal unless GroupDecoder::kTwoScales
  float offset[2];  // 0 unless GroupDecoder::kHasOffset
};

// --- Loads. A device reads whole aligned words: of the words that hold a block's first and last
// byte also the neighbours' bytes, never a word that holds no byte of the block.

// kCount little-endian words from `bytes`, which is a multiple of kAlignment (1, 2, 4 or 8).
template <int kAlignment, int kCount>
GGUF_OFFLOAD_HOST_DEVICE void LoadWords(const uint8_t* bytes, uint32_t (&words)[kCount]) {
#ifdef __CUDA_ARCH__
  if constexpr (kAlignment >= 8 && kCount % 2 == 0) {
    const uint2* pairs = reinterpret_cast<const uint2*>(bytes);
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      const uint2 pair = pairs[i];
      words[2 * i] = pair.x;
      words[2 * i + 1] = pair.y;
    }
  } else if constexpr (kAlignment >= 4) {
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < kCount; ++i) words[i] = reinterpret_cast<const uint32_t*>(bytes)[i];
  } else {
    const uint32_t misalignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(bytes)) & 3;
    const uint32_t* aligned = reinterpret_cast<const uint32_t*>(bytes - misalignment);
    uint32_t low = aligned[0];
    GGUF_OFFLOAD_UNROLL
    for (int i = 0; i < kCount; ++i) {
      // The last word again, rather than one beyond, if the words lie aligned after all.
      const uint32_t high = i + 1 < kCount ? aligned[i + 1] : aligned[kCount - (misalignment == 0)];
      words[i] = __funnelshift_r(low, high, 8 * misalignment);
      low = high;
    }
  }
#else
  memcpy(words, bytes, sizeof(words));
#endif
}

template <int kAlignment>
GGUF_OFFLOAD_HOST_DEVICE uint32_t LoadU16(const uint8_t* bytes) {
#ifdef __CUDA_ARCH__
  if constexpr (kAlignment >= 2) return *reinterpret_cast<const uint16_t*>(bytes);
#endif
  return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8;
}

template <int kAlignment>
GGUF_OFFLOAD_HOST_DEVICE uint32_t LoadU32(const uint8_t* bytes) {
  if constexpr (kAlignment == 2) {
    return LoadU16<2>(bytes) | LoadU16<2>(bytes + 2) << 16;
  } else {
    uint32_t word[1];
    LoadWords<kAlignment>(bytes, word);
    return word[0];
  }
}

// --- Arithmetic on the four bytes of a word.

// A word with four equal bytes.
GGUF_OFFLOAD_HOST_DEVICE constexpr uint32_t Repeat4(uint32_t byte) { return byte * 0x01010101u; }

// `count` may be negative.
GGUF_OFFLOAD_HOST_DEVICE uint32_t RotateLeft(uint32_t bits, int count) {
#ifdef __CUDA_ARCH__
  return __funnelshift_l(bits, bits, count);
#else
  return std::rotl(bits, count);
#endif
}

// Byte n of the result is the byte of `high:low` that nibble n of `selectors` names. Nibbles are
// less than 8.
GGUF_OFFLOAD_HOST_DEVICE uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selectors) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, selectors);
#else
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int n = 0; n < 4; ++n) {
    result |= static_cast<uint32_t>((bytes >> (8 * ((selectors >> (4 * n)) & 7))) & 255) << (8 * n);
  }
  return result;
#endif
}

// 0xff in each byte whose top bit is set, else 0.
GGUF_OFFLOAD_HOST_DEVICE uint32_t MaskOfTopBits(uint32_t bytes) {
#ifdef __CUDA_ARCH__
  uint32_t mask;  // selector 8 + n: the top bit of byte n, eight times
  asm("prmt.b32 %0, %1, 0, 0xba98;" : "=r"(mask) : "r"(bytes));
  return mask;
#else
  return ((bytes >> 7) & 0x01010101u) * 255;
#endif
}

// Bits 4 * nibble to 4 * nibble + 3 of `bits` to the top bits of the four bytes; other bits of the
// result are undefined. `nibble` should be a constant.
GGUF_OFFLOAD_HOST_DEVICE uint32_t BitsToTopBits(uint32_t bits, int nibble) {
  // Each bit is left alone in its byte, and the addition carries it to the top.
  const uint32_t bytes = PermuteBytes(bits, 0, 0x1111u * (nibble / 2));
  return nibble % 2 == 0 ? (bytes & 0x08040201u) + 0x787c7e7fu
                         : (bytes & 0x80402010u) + 0x00406070u;
}

// Each byte minus kBias, as signed bytes. Bytes and bias are less than 128.
template <uint32_t kBias>
GGUF_OFFLOAD_HOST_DEVICE uint32_t SubtractFromBytes(uint32_t bytes) {
  return ((bytes | 0x80808080u) - Repeat4(kBias)) ^ 0x80808080u;
}

// Negates the bytes that `mask` (0 or 0xff) marks. Bytes are 1 to 127, so nothing carries.
GGUF_OFFLOAD_HOST_DEVICE uint32_t NegateBytes(uint32_t bytes, uint32_t mask) {
  return (bytes ^ mask) + (mask & 0x01010101u);
}

// A table of sixteen signed bytes, entry n in byte n % 4 of word n / 4.
struct Table16 {
  uint32_t words[4];
};

constexpr Table16 PackTable16(const std::array<int, 16>& values) {
  Table16 table{};
  for (uint32_t i = 0; i < 16; ++i) {
    table.words[i / 4] |= static_cast<uint32_t>(values[i] & 255) << (8 * (i % 4));
  }
  return table;
}

// Entries of the table at the low and at the high nibbles of four bytes.
GGUF_OFFLOAD_HOST_DEVICE void LookUpNibbles(const Table16& table, uint32_t bytes, uint32_t& of_low,
                                            uint32_t& of_high) {
  // The permutation has eight entries, so both halves are looked up and bit 3 chooses.
  const uint32_t index = bytes & 0x77777777u;
  const uint32_t choice = 0x32103210u | ((bytes & 0x88888888u) >> 1);
  const uint32_t even = PermuteBytes(PermuteBytes(table.words[0], table.words[1], index),
                                     PermuteBytes(table.words[2], table.words[3], index), choice);
  const uint32_t odd =
      PermuteBytes(PermuteBytes(table.words[0], table.words[1], index >> 16),
                   PermuteBytes(table.words[2], table.words[3], index >> 16), choice >> 16);
  of_low = PermuteBytes(even, odd, 0x6420);
  of_high = PermuteBytes(even, odd, 0x7531);
}

// --- Numbers.

// The binary16 number with these bits.
GGUF_OFFLOAD_HOST_DEVICE float Half(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
#else
  return quant::HalfToFloat(static_cast<uint16_t>(bits));
#endif
}

GGUF_OFFLOAD_HOST_DEVICE float FloatOfBits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// `count` bits of the word from bit `shift` on.
GGUF_OFFLOAD_HOST_DEVICE constexpr uint32_t BitsAt(uint32_t word, int shift, int count) {
  return (word >> shift) & ((1u << count) - 1);
}

GGUF_OFFLOAD_HOST_DEVICE float SignedFloat(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word));
}

// One scale and no offset.
GGUF_OFFLOAD_HOST_DEVICE void SetScale(float scale, Group32& out) {
  out.scale[0] = out.scale[1] = scale;
  out.offset[0] = out.offset[1] = 0;
}

GGUF_OFFLOAD_HOST_DEVICE void SetScales(float first, float second, Group32& out) {
  out.scale[0] = first;
  out.scale[1] = second;
  out.offset[0] = out.offset[1] = 0;
}

GGUF_OFFLOAD_HOST_DEVICE void SetScaleAndOffset(float scale, float offset, Group32& out) {
  out.scale[0] = out.scale[1] = scale;
  out.offset[0] = out.offset[1] = offset;
}

// Decodes group `group` of a block (elements 32 * group on). Any bits are valid; products of scales
// are exact, so value[i] is the CPU's if the multiplication and the addition are rounded each.
//   static constexpr int kBlockElements, kBlockBytes;
//   static constexpr int kAlignment;    // that `block` must have: 1, 2, 4 or 8
//   static constexpr bool kHasOffset;   // offsets may be other than 0
//   static constexpr bool kTwoScales;   // scale[0] and scale[1] (and offsets) may differ
//   static constexpr bool kUnsigned;    // bytes of q have no sign; false where it is left out
//   static void Decode(const uint8_t* block, int group, Group32& out);  // host and device
// A tensor that begins at a multiple of kAlignment has all its blocks there.
template <quant::TensorType kType>
struct GroupDecoder;

template <class Decoder>
inline constexpr bool kUnsignedBytes = requires {
  requires Decoder::kUnsigned;
};

// Element i's q.
template <class Decoder>
GGUF_OFFLOAD_HOST_DEVICE float NumberOf(const Group32& group, int i) {
#ifdef __CUDA_ARCH__
  // Not by a conversion, of which a processor makes few at a time: as the last byte of a float that
  // is 2^23 larger, or 2^23 + 128 if there is a sign.
  constexpr uint32_t kSigns = kUnsignedBytes<Decoder> ? 0 : 0x80808080u;
  constexpr float kBase = kUnsignedBytes<Decoder> ? 8388608.0f : 8388736.0f;
  return __uint_as_float(__byte_perm(group.q[i / 4] ^ kSigns, 0x4b000000u, 0x7440 | i % 4)) - kBase;
#else
  const uint32_t byte = group.q[i / 4] >> (8 * (i % 4));
  if constexpr (kUnsignedBytes<Decoder>) {
    return static_cast<float>(static_cast<uint8_t>(byte));
  } else {
    return static_cast<float>(static_cast<int8_t>(byte));
  }
#endif
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_GROUP32_CUH_
