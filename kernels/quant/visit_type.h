// From a tensor type known at run time to one that is a template argument. Host only.
#ifndef KERNELS_QUANT_VISIT_TYPE_H_
#define KERNELS_QUANT_VISIT_TYPE_H_

#include "kernels/quant/format.h"

namespace gguf_offload::quant {

template <TensorType type>
struct TypeConstant {
  static constexpr TensorType kType = type;
};

#define GGUF_OFFLOAD_VISIT(name)               \
  case TensorType::name:                       \
    visitor(TypeConstant<TensorType::name>()); \
    return true;

// Calls visitor(TypeConstant<type>()) and returns true if `type` is one of those that
// cuda::GroupDecoder decodes: all dequantizable types but plain numbers.
template <typename Visitor>
bool VisitQuantizedType(TensorType type, const Visitor& visitor) {
  switch (type) {
    GGUF_OFFLOAD_VISIT(kQ4_0)
    GGUF_OFFLOAD_VISIT(kQ4_1)
    GGUF_OFFLOAD_VISIT(kQ5_0)
    GGUF_OFFLOAD_VISIT(kQ5_1)
    GGUF_OFFLOAD_VISIT(kQ8_0)
    GGUF_OFFLOAD_VISIT(kQ2_K)
    GGUF_OFFLOAD_VISIT(kQ3_K)
    GGUF_OFFLOAD_VISIT(kQ4_K)
    GGUF_OFFLOAD_VISIT(kQ5_K)
    GGUF_OFFLOAD_VISIT(kQ6_K)
    GGUF_OFFLOAD_VISIT(kIQ2_XXS)
    GGUF_OFFLOAD_VISIT(kIQ2_XS)
    GGUF_OFFLOAD_VISIT(kIQ2_S)
    GGUF_OFFLOAD_VISIT(kIQ3_XXS)
    GGUF_OFFLOAD_VISIT(kIQ3_S)
    GGUF_OFFLOAD_VISIT(kIQ1_S)
    GGUF_OFFLOAD_VISIT(kIQ1_M)
    GGUF_OFFLOAD_VISIT(kIQ4_NL)
    GGUF_OFFLOAD_VISIT(kIQ4_XS)
    GGUF_OFFLOAD_VISIT(kTQ1_0)
    GGUF_OFFLOAD_VISIT(kTQ2_0)
    GGUF_OFFLOAD_VISIT(kMXFP4)
    GGUF_OFFLOAD_VISIT(kNVFP4)
    GGUF_OFFLOAD_VISIT(kQ1_0)
    GGUF_OFFLOAD_VISIT(kQ2_0)
    default:
      return false;
  }
}

// The same for plain numbers: F32, F16, BF16, F64 and the integers.
template <typename Visitor>
bool VisitPlainType(TensorType type, const Visitor& visitor) {
  switch (type) {
    GGUF_OFFLOAD_VISIT(kF32)
    GGUF_OFFLOAD_VISIT(kF16)
    GGUF_OFFLOAD_VISIT(kBF16)
    GGUF_OFFLOAD_VISIT(kF64)
    GGUF_OFFLOAD_VISIT(kI8)
    GGUF_OFFLOAD_VISIT(kI16)
    GGUF_OFFLOAD_VISIT(kI32)
    GGUF_OFFLOAD_VISIT(kI64)
    default:
      return false;
  }
}

#undef GGUF_OFFLOAD_VISIT

}  // namespace gguf_offload::quant

#endif  // KERNELS_QUANT_VISIT_TYPE_H_
