#include "computed/model/tensor_names.h"

#include "absl/strings/str_cat.h"

namespace gguf_offload {
namespace {

// In the order of TensorId.
constexpr std::array<const char*, kTensorIdCount> kNames = {
    "token_embd.weight",
    "rope_freqs.weight",
    "output_norm.weight",
    "output.weight",
    "attn_norm.weight",
    "attn_q.weight",
    "attn_q.bias",
    "attn_k.weight",
    "attn_k.bias",
    "attn_v.weight",
    "attn_v.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "attn_output.weight",
    "attn_output.bias",
    "attn_sinks.weight",
    "post_attention_norm.weight",
    "attn_q_a.weight",
    "attn_q_a_norm.weight",
    "attn_q_b.weight",
    "attn_kv_a_mqa.weight",
    "attn_kv_a_norm.weight",
    "attn_kv_b.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_gate.bias",
    "ffn_up.weight",
    "ffn_up.bias",
    "ffn_down.weight",
    "ffn_down.bias",
    "ffn_gate_inp.weight",
    "ffn_gate_inp.bias",
    "exp_probs_b.bias",
    "ffn_gate_exps.weight",
    "ffn_gate_exps.bias",
    "ffn_up_exps.weight",
    "ffn_up_exps.bias",
    "ffn_down_exps.weight",
    "ffn_down_exps.bias",
    "ffn_gate_inp_shexp.weight",
    "ffn_gate_shexp.weight",
    "ffn_up_shexp.weight",
    "ffn_down_shexp.weight",
};

}  // namespace

std::string TensorName(TensorId id, int layer) {
  return layer < 0 ? std::string(kNames[id]) : absl::StrCat("blk.", layer, ".", kNames[id]);
}

}  // namespace gguf_offload
