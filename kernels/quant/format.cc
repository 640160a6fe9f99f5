#include "kernels/quant/format.h"

#include <array>

namespace gguf_offload::quant {
namespace {

constexpr std::array kFormats = {
    Format{TensorType::kF32, "F32", 1, 4, true},
    Format{TensorType::kF16, "F16", 1, 2, true},
    Format{TensorType::kQ4_0, "Q4_0", 32, 18, true},
    Format{TensorType::kQ4_1, "Q4_1", 32, 20, true},
    Format{TensorType::kQ5_0, "Q5_0", 32, 22, true},
    Format{TensorType::kQ5_1, "Q5_1", 32, 24, true},
    Format{TensorType::kQ8_0, "Q8_0", 32, 34, true},
    // Q8_1 and Q8_K are the layouts of quantized activations; files may name them all the same.
    Format{TensorType::kQ8_1, "Q8_1", 32, 36, false},
    Format{TensorType::kQ2_K, "Q2_K", 256, 84, true},
    Format{TensorType::kQ3_K, "Q3_K", 256, 110, true},
    Format{TensorType::kQ4_K, "Q4_K", 256, 144, true},
    Format{TensorType::kQ5_K, "Q5_K", 256, 176, true},
    Format{TensorType::kQ6_K, "Q6_K", 256, 210, true},
    Format{TensorType::kQ8_K, "Q8_K", 256, 292, false},
    Format{TensorType::kIQ2_XXS, "IQ2_XXS", 256, 66, true},
    Format{TensorType::kIQ2_XS, "IQ2_XS", 256, 74, true},
    Format{TensorType::kIQ3_XXS, "IQ3_XXS", 256, 98, true},
    Format{TensorType::kIQ1_S, "IQ1_S", 256, 50, true},
    Format{TensorType::kIQ4_NL, "IQ4_NL", 32, 18, true},
    Format{TensorType::kIQ3_S, "IQ3_S", 256, 110, true},
    Format{TensorType::kIQ2_S, "IQ2_S", 256, 82, true},
    Format{TensorType::kIQ4_XS, "IQ4_XS", 256, 136, true},
    Format{TensorType::kI8, "I8", 1, 1, true},
    Format{TensorType::kI16, "I16", 1, 2, true},
    Format{TensorType::kI32, "I32", 1, 4, true},
    Format{TensorType::kI64, "I64", 1, 8, true},
    Format{TensorType::kF64, "F64", 1, 8, true},
    Format{TensorType::kIQ1_M, "IQ1_M", 256, 56, true},
    Format{TensorType::kBF16, "BF16", 1, 2, true},
    Format{TensorType::kTQ1_0, "TQ1_0", 256, 54, true},
    Format{TensorType::kTQ2_0, "TQ2_0", 256, 66, true},
    Format{TensorType::kMXFP4, "MXFP4", 32, 17, true},
    Format{TensorType::kNVFP4, "NVFP4", 64, 36, true},
    Format{TensorType::kQ1_0, "Q1_0", 128, 18, true},
    Format{TensorType::kQ2_0, "Q2_0", 64, 18, true},
};

}  // namespace

const Format* FindFormat(uint32_t type) {
  for (const Format& format : kFormats) {
    if (static_cast<uint32_t>(format.type) == type) return &format;
  }
  return nullptr;
}

const Format& FormatOf(TensorType type) { return *FindFormat(static_cast<uint32_t>(type)); }

const Format* FindFormatByName(std::string_view name) {
  for (const Format& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

}  // namespace gguf_offload::quant
