// The feed-forward of a layer with experts, on the CPU.
//
// Tokens are sorted by expert, so that the weights of an expert are read once however many tokens
// go to it, and those of an expert without tokens not at all. A token's result is bit-identical
// whatever other tokens are in the call and whatever the number of threads: products do not depend
// on each other (matmul.h), and what the experts of a token say is added up in the order in which
// they were chosen.
#ifndef KERNELS_MOE_EXPERT_FEED_FORWARD_H_
#define KERNELS_MOE_EXPERT_FEED_FORWARD_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/matmul/aligned_buffer.h"
#include "kernels/matmul/matmul.h"
#include "kernels/moe/router.h"
#include "kernels/moe/routing.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// One matrix of each expert, one after the other; or anywhere.
struct ExpertMatrices {
  WeightMatrix first;           // that of expert 0: (rows, cols)
  const float* bias = nullptr;  // (experts, rows), or null
  // (experts) Where the matrices are, of those that tokens go to; null: one after the other.
  const uint8_t* const* each = nullptr;
  int64_t stride = 0;            // bytes from one to the next; 0: side by side
  const float* scale = nullptr;  // (experts) factors of the products, ahead of the bias, or null

  // The product with the matrix of `expert`, which goes to y.
  MatMulOutput ProductOf(int expert, float* y, int64_t y_stride) const;
};

// Owns the working memory, which grows to what the largest call needs. Thread compatible. The pool
// and the products must outlive it.
class ExpertFeedForward {
 public:
  ExpertFeedForward(ThreadPool& pool, MatMul& matmul) : pool_(pool), matmul_(matmul) {}

  struct Experts {
    int count;
    ExpertMatrices gate;  // (count, feed_forward, dim)
    ExpertMatrices up;    // (count, feed_forward, dim)
    ExpertMatrices down;  // (count, dim, feed_forward)
    ExpertActivation activation;
  };

  // out += sum over the experts chosen for each token of
  //        weight * down(activation(gate(x), up(x)))
  void AddTo(float* out,  // (chosen.n, dim), rows out_stride apart
             size_t out_stride,
             const float* x,  // (chosen.n, dim), rows x_stride apart
             size_t x_stride, ActivationType activations, const ChosenExperts& chosen,
             const Experts& experts);

 private:
  // The slots of one expert: its tokens, in the order of the batch.
  struct Group {
    int expert;
    int first;  // slot
    int count;
  };

  void SortByExpert(const ChosenExperts& chosen, int experts);
  void Gather(const float* x, size_t x_stride, size_t dim);
  void GateAndUp(ActivationType activations, const Experts& experts, const float* x);
  void Down(ActivationType activations, const Experts& experts);
  void Combine(const ChosenExperts& chosen, size_t dim, float* out, size_t out_stride);

  ThreadPool& pool_;
  MatMul& matmul_;
  // Of the call in progress. A slot is a token at one of its experts; slots are sorted by expert.
  std::vector<Group> groups_;
  std::vector<int> next_slot_;   // (experts)
  std::vector<int> slot_of_;     // (n, used)
  std::vector<int> token_of_;    // (slots)
  AlignedBuffer<float> input_;   // (slots, dim)
  AlignedBuffer<float> gate_;    // (slots, feed_forward)
  AlignedBuffer<float> up_;      // (slots, feed_forward)
  AlignedBuffer<float> output_;  // (slots, dim)
  std::vector<MatMulOutput> products_;
  std::vector<MatMulInput> inputs_;
};

}  // namespace gguf_offload

#endif  // KERNELS_MOE_EXPERT_FEED_FORWARD_H_
