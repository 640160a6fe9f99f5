// The feed-forward of a layer with experts, on the GPU: see expert_feed_forward.h for what is
// computed.
//
// For a few rows, experts' blocks are multiplied with 8-bit activations as they are; rows that
// chose the same expert share its bytes, where there are enough of them. For many, weights are
// expanded to half precision on their way to the tensor cores. Which of both, and every launch's
// shape, follows from the number of rows alone, so that what is queued can be captured in a graph;
// experts themselves are known on the GPU only.
#ifndef KERNELS_MOE_EXPERT_FEED_FORWARD_CUDA_H_
#define KERNELS_MOE_EXPERT_FEED_FORWARD_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/moe/expert_matrices_cuda.h"
#include "kernels/moe/expert_product_cuda.h"
#include "kernels/moe/routing.h"

namespace gguf_offload::cuda {

struct ExpertFeedForwardConfig {
  int experts = 0;  // 0: none, no memory
  int used = 0;     // chosen for a row, at most
  int64_t dim = 0;
  int64_t feed_forward = 0;
  int int8_rows = 64;   // the most rows that are multiplied in 8 bits, where weights allow
  int chunk_rows = 64;  // rows that are worked on at a time, for less memory; at least int8_rows
};

// Allocates nothing; works in the memory it is given. Thread compatible; what calls queue must
// follow one another on a stream, as they use the same memory.
class ExpertFeedForward {
 public:
  struct Experts {
    ExpertMatrices gate;  // (feed_forward, dim) each
    ExpertMatrices up;    // (feed_forward, dim) each
    ExpertMatrices down;  // (dim, feed_forward) each
    ExpertActivation activation = ExpertActivation::kSwiGlu;
    uint32_t* uses = nullptr;  // (experts) to which their pairs are added, or null
  };

  static size_t WorkspaceBytes(const ExpertFeedForwardConfig& config);
  // Whether experts of this type can be multiplied.
  static bool Supports(quant::TensorType type) { return CanMultiplyExpertsHalf(type); }

  // memory: WorkspaceBytes(config), 256-byte aligned, and outlives the object.
  ExpertFeedForward(const ExpertFeedForwardConfig& config, void* memory);

  // Whether AddTo multiplies `rows` rows in 8 bits, and so wants x in that form.
  bool WantsQuantized(int rows, const Experts& experts) const;

  // out += sum over the experts chosen for each row of
  //        weight * down(activation(gate(x), up(x)))
  // Strides are in floats and multiples of 4, as is dim; rows are aligned to 16 bytes.
  void AddTo(float* out,  // (chosen.rows, dim), rows out_stride apart
             int64_t out_stride,
             const float* x,  // (chosen.rows, dim), rows x_stride apart
             int64_t x_stride,
             const QuantizedRows& quantized,  // x in 8 bits, where that is wanted
             const ChosenExperts& chosen, const Experts& experts, cudaStream_t stream) const;

  // The same in steps, so that the experts of a single row may come one after the other, and their
  // matrices too: the products of the row's pairs from `first_pair` on, as many as `part` has, stay
  // in the memory until the sum over all of them is added. First activation(gate(x), up(x)), then
  // down of that; `int8`: x was quantized.
  void MultiplyInner(const float* x, int64_t x_stride, const QuantizedRows& quantized,
                     const ChosenExperts& part, int first_pair, const Experts& experts,
                     cudaStream_t stream) const;
  void MultiplyDown(bool int8, const ChosenExperts& part, int first_pair, const Experts& experts,
                    cudaStream_t stream) const;
  void AddProducts(float* out, int64_t out_stride, const ChosenExperts& chosen,
                   const Experts& experts, cudaStream_t stream) const;
  // MultiplyDown of the last pair of a single row in 8 bits and AddProducts, in one launch: of
  // elements [first, end) of `out`, so that they may come in several.
  void MultiplyLastDownAndAdd(float* out, int64_t first, int64_t end, const ChosenExperts& chosen,
                              const Experts& experts, cudaStream_t stream) const;

 private:
  // Offsets of what the memory holds.
  struct Layout {
    size_t pairs = 0, tiles = 0, gate = 0, up = 0, down = 0, q = 0, q_scale = 0;
    size_t half_x = 0, x_scale = 0, half_h = 0, h_scale = 0, bytes = 0;
    explicit Layout(const ExpertFeedForwardConfig& config);
  };

  // How the pairs of `part` are gone through.
  struct PairOrder {
    ExpertOrder order;  // none: one by one
    int tiles = 0;
    int tile_pairs = 0;
  };
  PairOrder OrderOf(const ChosenExperts& part, bool int8) const;
  // Memory for the activations of pairs from `first_pair` on in 8 bits.
  QuantizedRows QuantizedPairs(int first_pair) const;
  void GateAndUp(const Experts& experts, int pairs_per_row, int first_pair,
                 const auto& multiply) const;
  template <typename T>
  T* At(size_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }

  const ExpertFeedForwardConfig config_;
  const Layout layout_;
  uint8_t* const memory_;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_FEED_FORWARD_CUDA_H_
