// Which type each tensor of a model gets: the mixes people use, and single types.
#ifndef TESTS_MODELGEN_QUANTIZATION_MIX_H_
#define TESTS_MODELGEN_QUANTIZATION_MIX_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/quant/format.h"
#include "tests/modelgen/model_plan.h"

namespace gguf_offload {

// A small value type.
class QuantizationMix {
 public:
  // Q4_K_M and Q5_K_M: that type, with Q6_K for the output matrix (the embedding if that is it)
  // and,
  //   in the layers that llama.cpp gives more bits, for values and ffn_down.
  // UD-IQ1_S: Unsloth's mix for DeepSeek-R1: routed experts IQ1_S, but IQ2_XXS for the ffn_down of
  //   the first six layers that have experts; all else from Q4_K to Q6_K.
  // Any name of a supported type (Q8_0, F16, IQ2_XS...): that type for every matrix.
  // Norms, biases and routers are F32 in all of them.
  static absl::StatusOr<QuantizationMix> Parse(std::string_view name);

  const std::string& name() const { return name_; }
  uint32_t file_type() const { return file_type_; }  // general.file_type, llama.cpp's llama_ftype

  // The type of `tensor` in `model`. Where its columns are not a multiple of the type's block, the
  // type that llama.cpp falls back to, and F16 after that.
  quant::TensorType TypeOf(const TensorPlan& tensor, const ModelPlan& model) const;

 private:
  enum class Kind { kSingle, kMoreBits, kDynamic };

  QuantizationMix(std::string_view name, Kind kind, quant::TensorType base, uint32_t file_type)
      : name_(name), kind_(kind), base_(base), file_type_(file_type) {}

  quant::TensorType WantedType(const TensorPlan& tensor, const ModelPlan& model) const;

  std::string name_;
  Kind kind_;
  quant::TensorType base_;
  uint32_t file_type_;
};

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZATION_MIX_H_
