// Products with one small matrix for each attention head, on the CPU: what leads from a head's
// space to the latent space of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) and
// back.
//
// Weights stay in their GGUF blocks and are expanded to float32 as they are needed. Activations are
// float32 always: these matrices are a few percent of a model, and an error in the latent space is
// one in all positions of the cache.
//
// The result for a row does not depend on how many other rows are in the call, on the number of
// threads or on the vector width (given fused multiply-add): all sums are in a fixed order.
#ifndef KERNELS_MATMUL_HEAD_MATMUL_H_
#define KERNELS_MATMUL_HEAD_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/quant/format.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// A matrix a head. Does not own the blocks.
struct HeadMatrices {
  quant::TensorType type;  // any dequantizable one
  const uint8_t* data;     // (heads, rows, cols), row-major blocks
  int heads;
  int64_t rows;
  int64_t cols;       // a multiple of the block
  size_t head_bytes;  // from one head's first row to the next one's, at least those of `rows` rows
};

// A vector for each row and head. Strides are in floats.
struct HeadInput {
  const float* data;  // (n, heads, elements)
  int64_t row_stride;
  int64_t head_stride;
};
struct HeadOutput {
  float* data;  // (n, heads, elements)
  int64_t row_stride;
  int64_t head_stride;
};

// Owns the working memory, which grows to what the largest call needs and is then reused. Thread
// compatible: one call at a time. The pool must outlive it.
class HeadMatMul {
 public:
  explicit HeadMatMul(ThreadPool& pool);
  ~HeadMatMul();
  HeadMatMul(const HeadMatMul&) = delete;
  HeadMatMul& operator=(const HeadMatMul&) = delete;

  // y[i][h][r] = sum over c of weight[h][r][c] * x[i][h][c].
  void Run(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y);

  // y[i][h][c] = sum over r of weight[h][r][c] * x[i][h][r]. A block holds elements of one row, so
  // a transposed copy of quantized weights would have to be rounded again or take several times
  // their memory; instead rows are expanded as they are and added up.
  void RunTransposed(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y);

 private:
  struct ThreadMemory;

  void RunRows(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y, int head,
               int64_t first_row, ThreadMemory& memory);
  void RunColumns(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y,
                  int head, int64_t first_column, ThreadMemory& memory);

  ThreadPool& pool_;
  std::vector<ThreadMemory> memory_;  // one a thread
};

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_HEAD_MATMUL_H_
