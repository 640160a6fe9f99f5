// Products of quantized weight matrices with a few or many activation rows ("tokens"), on the CPU.
//
// Weights stay in their GGUF blocks. With 8-bit activations, each token is quantized in groups of
// 32 (scale = largest magnitude / 127) and multiplied in integers; with float32 activations, and
// for F32, F16 and BF16 weights always, weights are expanded to float32 a few rows at a time.
//
// The result of a (row, token) pair does not depend on how many other tokens are in the call, on
// the number of threads or on the vector width (given fused multiply-add): every kernel adds up in
// the same order. So a sequence gives the same text whatever it is batched with.
#ifndef KERNELS_MATMUL_MATMUL_H_
#define KERNELS_MATMUL_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/quant/format.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

struct WeightMatrix {
  quant::TensorType type;  // any dequantizable one
  const uint8_t* data;     // (rows, cols), row-major blocks
  int64_t rows;
  int64_t cols;  // a multiple of the block
};

enum class ActivationType { kFloat32, kInt8 };

struct MatMulOutput {
  WeightMatrix weight;  // (rows, cols)
  const float* bias;    // (rows), or null
  float* y;             // (n, rows) with a row stride of y_stride
  int64_t y_stride;     // in floats, at least `rows`
  // A factor of the products, ahead of the bias; null for 1.
  const float* scale = nullptr;
};

// One of several inputs, each with products of its own.
struct MatMulInput {
  const float* x;                         // (n, cols), rows x_stride apart
  int64_t x_stride;                       // in floats
  int n;                                  // may be 0
  std::span<const MatMulOutput> outputs;  // all weights have `cols` columns
};

// Owns the working memory, which grows to what the largest call needs and is then reused. Thread
// compatible: one call at a time. The pool must outlive it.
class MatMul {
 public:
  explicit MatMul(ThreadPool& pool);
  ~MatMul();
  MatMul(const MatMul&) = delete;
  MatMul& operator=(const MatMul&) = delete;

  // For each output: y[i][r] = scale * sum over c of weight[r][c] * x[i][c] + bias[r]. All weights
  // have the same number of columns. x: (n, cols) with a row stride of x_stride floats.
  void Run(ActivationType activations, const float* x, int64_t x_stride, int n,
           std::span<const MatMulOutput> outputs);
  // All of these at once, so that the threads share them well even if each is small.
  void Run(ActivationType activations, std::span<const MatMulInput> inputs);

 private:
  struct Input;         // one input, made ready
  struct Job;           // one output, cut into tasks
  struct ThreadMemory;  // working memory of one thread

  void PrepareInputs(std::span<const MatMulInput> inputs);
  void PlanJobs(ActivationType activations);
  void PrepareActivations();
  static void PadRows(Input& input);
  void RunTask(const Job& job, size_t task, ThreadMemory& memory);

  ThreadPool& pool_;
  std::vector<ThreadMemory> memory_;  // one a thread
  // Of the call in progress.
  std::vector<std::unique_ptr<Input>>
      inputs_;  // the first input_count_; the others keep their memory
  size_t input_count_ = 0;
  std::vector<Job> jobs_;
  size_t task_count_ = 0;
};

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_MATMUL_H_
