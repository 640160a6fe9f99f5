// Chooses the experts of each token, on the CPU.
//
// A token's experts and weights are bit-identical whatever other tokens are in the call and
// whatever the number of threads.
#ifndef KERNELS_MOE_ROUTER_H_
#define KERNELS_MOE_ROUTER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/moe/routing.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// The experts chosen for `n` tokens, `used` different ones each, best first.
struct ChosenExperts {
  int n = 0;
  int used = 0;
  std::vector<int32_t> experts;  // (n, used)
  std::vector<float> weights;    // (n, used)
};

// Owns its working memory and the choice, which only grow. Thread compatible. The pool must outlive
// it.
class Router {
 public:
  explicit Router(ThreadPool& pool) : pool_(pool), memory_(pool.threads()) {}

  // Chooses as `rule` says; `logits` are overwritten. NaN counts as the smallest value of all in
  // the choice, and stays NaN as a weight.
  void Choose(float* logits,  // (n, rule.experts), rows stride apart
              size_t stride,
              const float* selection_bias,  // (rule.experts) or null
              const RoutingRule& rule, int n);

  // What was chosen last.
  const ChosenExperts& chosen() const { return chosen_; }

 private:
  struct ThreadMemory {
    std::vector<float> keys;          // (experts) what the choice goes by
    std::vector<int32_t> candidates;  // experts that may be chosen
    std::vector<float> group_scores;
    std::vector<int32_t> groups;
  };

  static void ChooseForToken(float* logits, const float* selection_bias, const RoutingRule& rule,
                             ThreadMemory& memory, int32_t* experts, float* weights);

  ThreadPool& pool_;
  std::vector<ThreadMemory> memory_;  // one a thread
  ChosenExperts chosen_;
};

}  // namespace gguf_offload

#endif  // KERNELS_MOE_ROUTER_H_
