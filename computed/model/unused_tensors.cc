#include "computed/model/unused_tensors.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace gguf_offload {
namespace {

constexpr absl::string_view kPrediction = "predicts further tokens, which is not done";

struct Prefix {
  absl::string_view prefix;
  absl::string_view reason;
};

// Of files that are more than a model of text. Names: llama.cpp, tools/mtmd/clip-impl.h.
constexpr Prefix kPrefixes[] = {
    {"v.", "of images, which are not read"},   {"mm.", "of images, which are not read"},
    {"a.", "of sound, which is not read"},     {"mm.a.", "of sound, which is not read"},
    {"nextn.", kPrediction},                   {"mtp.", kPrediction},
};

}  // namespace

absl::string_view ReasonForLeavingOut(absl::string_view name, int layers, int prediction_layers) {
  for (const Prefix& prefix : kPrefixes) {
    if (absl::StartsWith(name, prefix.prefix)) return prefix.reason;
  }
  // The range of activations that NVFP4 files were calibrated with, for hardware that multiplies in
  // 4 bits. No product is multiplied by it (llama.cpp, llama_model_base::load_tensors reads the
  // *_in_s tensors, and no graph has them).
  if (absl::EndsWith(name, ".input_scale")) return "of 4-bit activations, which are not used";
  // Angles of rotation, which follow from the metadata (llama.cpp, LLM_TENSOR_ATTN_ROT_EMBD).
  if (absl::EndsWith(name, ".attn_rot_embd") || absl::EndsWith(name, ".attn_rot_embd.weight")) {
    return "a table of angles, which are computed";
  }
  if (absl::ConsumePrefix(&name, "blk.")) {
    int block = 0;
    if (absl::SimpleAtoi(name.substr(0, name.find('.')), &block) && block >= layers &&
        block < layers + prediction_layers) {
      return kPrediction;
    }
  }
  return "";
}

}  // namespace gguf_offload
