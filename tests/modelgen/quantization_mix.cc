#include "tests/modelgen/quantization_mix.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tests/modelgen/block_generator.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

// The layers whose values and ffn_down get more bits (llama.cpp's use_more_bits): the first and the
// last eighth, and every third in between.
bool UsesMoreBits(int layer, int layers) {
  const int eighth = layers / 8;
  return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

// Number of the mix in llama.cpp's llama_ftype for files of one type; 1024 ("guessed") if none.
uint32_t FileTypeOf(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return 0;
    case TensorType::kF16:
      return 1;
    case TensorType::kQ4_0:
      return 2;
    case TensorType::kQ4_1:
      return 3;
    case TensorType::kQ8_0:
      return 7;
    case TensorType::kQ5_0:
      return 8;
    case TensorType::kQ5_1:
      return 9;
    case TensorType::kQ2_K:
      return 10;
    case TensorType::kQ3_K:
      return 11;
    case TensorType::kQ4_K:
      return 14;
    case TensorType::kQ5_K:
      return 16;
    case TensorType::kQ6_K:
      return 18;
    case TensorType::kIQ2_XXS:
      return 19;
    case TensorType::kIQ2_XS:
      return 20;
    case TensorType::kIQ3_XXS:
      return 23;
    case TensorType::kIQ1_S:
      return 24;
    case TensorType::kIQ4_NL:
      return 25;
    case TensorType::kIQ3_S:
      return 26;
    case TensorType::kIQ2_S:
      return 28;
    case TensorType::kIQ4_XS:
      return 30;
    case TensorType::kIQ1_M:
      return 31;
    case TensorType::kBF16:
      return 32;
    case TensorType::kTQ1_0:
      return 36;
    case TensorType::kTQ2_0:
      return 37;
    case TensorType::kMXFP4:
      return 38;
    case TensorType::kNVFP4:
      return 39;
    case TensorType::kQ1_0:
      return 40;
    case TensorType::kQ2_0:
      return 41;
    default:
      return 1024;
  }
}

// What llama.cpp uses for rows that `type` does not divide: blocks of 32 with a few more bits.
TensorType Fallback(TensorType type) {
  switch (type) {
    case TensorType::kTQ1_0:
    case TensorType::kTQ2_0:
    case TensorType::kNVFP4:
    case TensorType::kQ1_0:
    case TensorType::kQ2_0:
      return TensorType::kQ4_0;
    case TensorType::kQ2_K:
    case TensorType::kQ3_K:
    case TensorType::kIQ1_S:
    case TensorType::kIQ1_M:
    case TensorType::kIQ2_XXS:
    case TensorType::kIQ2_XS:
    case TensorType::kIQ2_S:
    case TensorType::kIQ3_XXS:
    case TensorType::kIQ3_S:
    case TensorType::kIQ4_XS:
      return TensorType::kIQ4_NL;
    case TensorType::kQ4_K:
      return TensorType::kQ5_0;
    case TensorType::kQ5_K:
      return TensorType::kQ5_1;
    case TensorType::kQ6_K:
      return TensorType::kQ8_0;
    default:
      return TensorType::kF16;
  }
}

// UD-IQ1_S. The published file of 130.6 GiB has 190 tensors of Q4_K, 116 of Q5_K, 184 of Q6_K, 168
// of IQ1_S and 6 of IQ2_XXS; this is the assignment that has those counts and that size.
TensorType DynamicType(const TensorPlan& tensor, const ModelPlan& model) {
  constexpr int kLayersWithMore = 6;
  switch (tensor.role) {
    case TensorRole::kFloat:
      return TensorType::kF32;
    case TensorRole::kOutput:
    case TensorRole::kValue:
    case TensorRole::kLatent:
    case TensorRole::kFeedForwardDown:
    case TensorRole::kSharedExpertDown:
      return TensorType::kQ6_K;
    case TensorRole::kSharedExpert:
      return TensorType::kQ5_K;
    case TensorRole::kEmbedding:
      return model.shape.tied ? TensorType::kQ6_K : TensorType::kQ4_K;
    case TensorRole::kAttention:
    case TensorRole::kFeedForward:
      return TensorType::kQ4_K;
    case TensorRole::kExpert:
      return TensorType::kIQ1_S;
    case TensorRole::kExpertDown:
      break;
  }
  const auto first =
      std::find_if(model.tensors.begin(), model.tensors.end(),
                   [](const TensorPlan& other) { return other.role == TensorRole::kExpertDown; });
  return tensor.layer < first->layer + kLayersWithMore ? TensorType::kIQ2_XXS : TensorType::kIQ1_S;
}

}  // namespace

absl::StatusOr<QuantizationMix> QuantizationMix::Parse(std::string_view name) {
  if (name == "Q4_K_M") return QuantizationMix(name, Kind::kMoreBits, TensorType::kQ4_K, 15);
  if (name == "Q5_K_M") return QuantizationMix(name, Kind::kMoreBits, TensorType::kQ5_K, 17);
  if (name == "UD-IQ1_S") return QuantizationMix(name, Kind::kDynamic, TensorType::kIQ1_S, 24);
  const quant::Format* format = quant::FindFormatByName(name);
  if (format == nullptr || !BlockGenerator::Supports(format->type)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no quantization ", std::string(name),
                     "; there are Q4_K_M, Q5_K_M, UD-IQ1_S and the types from F32 to Q2_0"));
  }
  return QuantizationMix(name, Kind::kSingle, format->type, FileTypeOf(format->type));
}

TensorType QuantizationMix::WantedType(const TensorPlan& tensor, const ModelPlan& model) const {
  if (tensor.role == TensorRole::kFloat) return TensorType::kF32;
  if (kind_ == Kind::kDynamic) return DynamicType(tensor, model);
  if (kind_ == Kind::kSingle) return base_;
  switch (tensor.role) {
    case TensorRole::kOutput:
      return TensorType::kQ6_K;
    case TensorRole::kEmbedding:
      return model.shape.tied ? TensorType::kQ6_K : base_;
    case TensorRole::kValue:
    case TensorRole::kFeedForwardDown:
    case TensorRole::kSharedExpertDown:
    case TensorRole::kExpertDown:
      return UsesMoreBits(tensor.layer, static_cast<int>(model.shape.layers)) ? TensorType::kQ6_K
                                                                              : base_;
    default:
      return base_;
  }
}

TensorType QuantizationMix::TypeOf(const TensorPlan& tensor, const ModelPlan& model) const {
  TensorType type = WantedType(tensor, model);
  while (tensor.dims[0] % quant::FormatOf(type).block_elements != 0) type = Fallback(type);
  return type;
}

}  // namespace gguf_offload
