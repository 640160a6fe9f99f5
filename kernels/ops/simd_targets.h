// Which instruction sets the float kernels are compiled for. Include before anything of Highway.
//
// Each kernel source is compiled once a target, and the best one that the processor has is chosen
// when it is called (github.com/google/highway, g3doc/quick_reference.md): SSE4 (the least that is
// supported), AVX2 with FMA, AVX-512.
#ifndef KERNELS_OPS_SIMD_TARGETS_H_
#define KERNELS_OPS_SIMD_TARGETS_H_

#define HWY_WANT_SSE4 1
#define HWY_DISABLED_TARGETS HWY_SSSE3

#endif  // KERNELS_OPS_SIMD_TARGETS_H_
