// How mixture-of-experts models choose the experts of a token, and what the experts compute: the
// vocabulary that models, backends and kernels share.
#ifndef KERNELS_MOE_ROUTING_H_
#define KERNELS_MOE_ROUTING_H_

namespace gguf_offload {

// How a router's logits become weights.
enum class ExpertGating {
  kSoftmax,          // softmax over all experts (Qwen, DeepSeek-V2)
  kSigmoid,          // each expert by itself (DeepSeek-V3, GLM-4.5, MiniMax-M2)
  kSoftmaxOfChosen,  // the largest logits are chosen; softmax over those (gpt-oss)
};

// For each token, with s = gating(logits):
//   1. The experts are chosen by s + selection bias (where there is one), of equals the first.
//   2. With groups > 1, only those of the used_groups best groups take part. A group is
//      experts / groups consecutive experts, and as good as the sum of its two best.
//   3. The weight of a chosen expert is its s, without the bias, divided by the sum of the chosen
//      ones' if `normalize`, times `scale`.
// (DeepSeek-V3, arXiv:2412.19437, section 2.1.2; the others are special cases.)
struct RoutingRule {
  int experts = 0;
  int used = 0;  // experts chosen for a token, 1 <= used <= experts / groups * used_groups
  ExpertGating gating = ExpertGating::kSoftmax;
  bool normalize = false;
  float scale = 1.0f;
  int groups = 1;  // divides experts
  int used_groups = 1;
};

// What an expert does between its products.
enum class ExpertActivation {
  kSwiGlu,         // silu(gate) * up
  kClampedSwiGlu,  // see kernels/ops/activation.h; with the constants below
  kSilu,           // silu(gate), without regard to up: of experts that have one inner product
};

// Of gpt-oss, which are not in its files.
inline constexpr float kClampedSwiGluAlpha = 1.702f;
inline constexpr float kClampedSwiGluLimit = 7.0f;

}  // namespace gguf_offload

#endif  // KERNELS_MOE_ROUTING_H_
