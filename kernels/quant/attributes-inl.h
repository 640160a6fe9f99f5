// HWY_BEFORE_NAMESPACE, HWY_AFTER_NAMESPACE and HWY_ATTR (for lambdas) of kernels that use the
// 8-bit dot product: Highway 1.0's AVX-512 target is for processors that have it, but does not
// enable it in the compiler.
#if defined(KERNELS_QUANT_ATTRIBUTES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_QUANT_ATTRIBUTES_INL_H_
#undef KERNELS_QUANT_ATTRIBUTES_INL_H_
#else
#define KERNELS_QUANT_ATTRIBUTES_INL_H_
#endif

#include <hwy/highway.h>

#undef GGUF_OFFLOAD_BEFORE_NAMESPACE
#undef GGUF_OFFLOAD_AFTER_NAMESPACE
#undef GGUF_OFFLOAD_ATTR
#if HWY_TARGET == HWY_AVX3_DL
#define GGUF_OFFLOAD_BEFORE_NAMESPACE() \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni") static_assert(true, "For requiring semicolon")
#else
#define GGUF_OFFLOAD_BEFORE_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif
#if HWY_TARGET == HWY_AVX3_DL && HWY_COMPILER_CLANG
#define GGUF_OFFLOAD_ATTR __attribute__((target(HWY_TARGET_STR ",avx512vnni")))
#else
#define GGUF_OFFLOAD_ATTR HWY_ATTR
#endif
#define GGUF_OFFLOAD_AFTER_NAMESPACE() HWY_AFTER_NAMESPACE()

#endif  // KERNELS_QUANT_ATTRIBUTES_INL_H_
