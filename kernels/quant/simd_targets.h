// Which instruction sets the kernels are compiled for. Include before anything of Highway.
//
// Each kernel source is compiled once a target, and the best one that the processor has is chosen
// when it is called (github.com/google/highway, g3doc/quick_reference.md). Three are enough: plain
// C++, AVX2 with FMA, and AVX-512 with the 8-bit dot product (Ice Lake, Zen 4 and later).
#ifndef KERNELS_QUANT_SIMD_TARGETS_H_
#define KERNELS_QUANT_SIMD_TARGETS_H_

#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3)

#endif  // KERNELS_QUANT_SIMD_TARGETS_H_
