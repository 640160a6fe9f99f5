#include "computed/model/tensor_names.h"

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

struct Name {
  const char* base;
  const char* suffix;
  bool linear;
};

// In the order of TensorId.
constexpr std::array<Name, kTensorIdCount> kNames = {{
    {"token_embd", "weight", false},
    {"rope_freqs", "weight", false},
    {"output_norm", "weight", false},
    {"output", "weight", true},
    {"attn_norm", "weight", false},
    {"attn_q", "weight", true},
    {"attn_k", "weight", true},
    {"attn_v", "weight", true},
    {"attn_qkv", "weight", true},
    {"attn_q_norm", "weight", false},
    {"attn_k_norm", "weight", false},
    {"attn_output", "weight", true},
    {"attn_sinks", "weight", false},
    {"post_attention_norm", "weight", false},
    {"attn_q_a", "weight", true},
    {"attn_q_a_norm", "weight", false},
    {"attn_q_b", "weight", true},
    {"attn_kv_a_mqa", "weight", true},
    {"attn_kv_a_norm", "weight", false},
    {"attn_kv_b", "weight", false},
    {"attn_k_b", "weight", false},
    {"attn_v_b", "weight", false},
    {"ffn_norm", "weight", false},
    {"ffn_gate", "weight", true},
    {"ffn_up", "weight", true},
    {"ffn_gate_up", "weight", true},
    {"ffn_down", "weight", true},
    {"ffn_gate_inp", "weight", true},
    {"exp_probs_b", "bias", false},
    {"ffn_gate_exps", "weight", true},
    {"ffn_up_exps", "weight", true},
    {"ffn_gate_up_exps", "weight", true},
    {"ffn_down_exps", "weight", true},
    {"ffn_gate_inp_shexp", "weight", true},
    {"ffn_gate_shexp", "weight", true},
    {"ffn_up_shexp", "weight", true},
    {"ffn_down_shexp", "weight", true},
}};

}  // namespace

std::string TensorName(TensorId id, int layer) {
  return TensorName(id, layer, kNames[id].suffix);
}

std::string TensorName(TensorId id, int layer, absl::string_view suffix) {
  const std::string name = absl::StrCat(kNames[id].base, ".", suffix);
  return layer < 0 ? name : absl::StrCat("blk.", layer, ".", name);
}

bool IsLinear(TensorId id) { return kNames[id].linear; }

}  // namespace gguf_offload
