// The plain number types of weights, as kernels read them.
#ifndef KERNELS_MATMUL_PLAIN_NUMBERS_CUH_
#define KERNELS_MATMUL_PLAIN_NUMBERS_CUH_

#include <cuda_fp16.h>

#include <cstdint>

namespace gguf_offload::cuda {

struct F32Number {
  uint32_t bits;
  static constexpr int kPerWord = 1;
};
struct F16Number {
  uint16_t bits;
  static constexpr int kPerWord = 2;
};
struct BF16Number {
  uint16_t bits;
  static constexpr int kPerWord = 2;
};

__device__ __forceinline__ float ToFloat(F32Number number) { return __uint_as_float(number.bits); }
__device__ __forceinline__ float ToFloat(F16Number number) {
  return __half2float(__ushort_as_half(number.bits));
}
__device__ __forceinline__ float ToFloat(BF16Number number) {
  return __uint_as_float(static_cast<uint32_t>(number.bits) << 16);
}

// Number i of a 32-bit word.
template <class Number>
__device__ __forceinline__ float NumberOfWord(uint32_t word, int i) {
  Number number;
  number.bits = static_cast<decltype(number.bits)>(word >> (32 / Number::kPerWord * i));
  return ToFloat(number);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_PLAIN_NUMBERS_CUH_
