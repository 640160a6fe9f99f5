// The instruction set that kernels dispatch to on this machine.
#ifndef KERNELS_QUANT_SIMD_TARGET_NAME_H_
#define KERNELS_QUANT_SIMD_TARGET_NAME_H_

namespace gguf_offload {

// For example "AVX3_DL"; Highway's name of the target.
const char* SimdTargetName();

}  // namespace gguf_offload

#endif  // KERNELS_QUANT_SIMD_TARGET_NAME_H_
