// Products of weight matrices in GGUF blocks with activation rows ("tokens"), on the GPU.
//
// For few tokens the weights' bytes are what takes time: activations are quantized to 8 bits in
// groups of 32 and multiplied with the blocks as they are (quantized_matvec_cuda.h); F32, F16 and
// BF16 weights are multiplied in float32. For many tokens, weights are expanded to half precision
// and go through the tensor cores (half_matmul_cuda.h).
#ifndef KERNELS_MATMUL_MATMUL_CUDA_H_
#define KERNELS_MATMUL_MATMUL_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/matmul/cublas_library.h"
#include "kernels/matmul/float_matvec_cuda.h"
#include "kernels/matmul/half_matmul_cuda.h"
#include "kernels/matmul/matmul_output_cuda.h"
#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

enum class Precision {
  kInt8,  // 8-bit activations up to `crossover` tokens, half precision beyond
  kHalf,  // always half precision, for comparison; needs cuBLAS
};

struct MatMulConfig {
  Precision precision = Precision::kInt8;
  int crossover = 64;  // the most tokens that are multiplied in 8 bits
  int max_rows = 0;    // the most tokens a call
  int64_t max_cols = 0;
  // Where weights are expanded, part by part: at least HalfMatMul::LeastWeightBytes(max_cols);
  // more makes fewer and larger parts.
  size_t weight_scratch_bytes = size_t{64} << 20;
  size_t cublas_workspace_bytes = size_t{32} << 20;  // what NVIDIA advises for Hopper
  // Null: there is none, and all calls take the path for few tokens. Must outlive the MatMul.
  const CublasLibrary* cublas = nullptr;
};

// Allocates nothing; works in the memory it is given. Thread compatible; a call queues its work on
// a stream, and since all calls use the same memory, each must follow the last on it. What is
// queued depends on shapes alone, so it can be captured in a graph, best once the same has run
// without: cuBLAS loads its code when it first needs it.
class MatMul {
 public:
  // Bytes of device memory that a MatMul of this configuration works in.
  static size_t WorkspaceBytes(const MatMulConfig& config);

  // memory: WorkspaceBytes(config), 256-byte aligned, and outlives the MatMul. Null, with the
  // reason in `error`, if cuBLAS is needed and cannot be used.
  static std::unique_ptr<MatMul> Create(const MatMulConfig& config, void* memory,
                                        std::string& error);

  // Whether weights of this type can be multiplied: every block format, F32, F16 and BF16.
  static bool Supports(quant::TensorType type);

  // Whether n tokens are multiplied in 8 bits (with weights in blocks).
  bool IsQuantized(int n) const { return n <= max_quantized_rows_; }

  // Where whoever produces activations may write them in 8 bits himself, for the next call of Run.
  // Null pointers if n tokens are not multiplied in 8 bits.
  QuantizedRows PrepareQuantized(int n, int64_t cols);

  // For each output: y[i][r] = sum over c of weight[r][c] * x[i][c], plus bias[r]. All outputs have
  // the same number of columns. x: (n, cols) with a row stride of x_stride floats; if
  // already_quantized, PrepareQuantized's rows hold it, and x may be null unless a weight is F32,
  // F16 or BF16. Null, or what went wrong. Up to the crossover, the result of a (row, token) pair
  // does not depend on the other tokens.
  [[nodiscard]] const char* Run(const float* x, int64_t x_stride, int n, bool already_quantized,
                                std::span<const MatMulOutput> outputs, cudaStream_t stream);

  // The same of a norm that nobody has made yet: of n rows, with F32 weights. Where
  // CanRunOfNorm says so: with few rows of weights, every block makes the norm itself.
  void RunOfNorm(const NormToCome& norm, int n, std::span<const MatMulOutput> outputs,
                 cudaStream_t stream);
  bool CanRunOfNorm(int n, std::span<const MatMulOutput> outputs) const;

  // gate.y = silu(gate.weight x) * (up.weight x), for one row x that PrepareQuantized's memory
  // holds, in one launch. Afterwards PrepareQuantized is where the result is in 8 bits. False, and
  // nothing has been done, where there is no kernel for it. Run and SwiGlu give the same bits.
  [[nodiscard]] bool RunGated(const MatMulOutput& gate, const MatMulOutput& up,
                              cudaStream_t stream);

  // residual += x, where x is not null, for n rows. Afterwards PrepareQuantized's memory holds, for
  // the next products with 8-bit activations and for nobody else, the residual's norm: residual /
  // rms(residual) * norm. Where CanDeferNorm says so.
  void RunDeferredNorm(float* residual, int64_t residual_stride, const float* x, int64_t x_stride,
                       int n, int64_t cols, const float* norm, float eps, cudaStream_t stream);
  bool CanDeferNorm(int n, int64_t cols) const;

  // The same with the product of one row that PrepareQuantized's memory holds in place of x, in one
  // launch, to the same bits; product.y is not written. Where CanRunNormed says so.
  void RunNormed(const MatMulOutput& product, float* residual, const float* norm, float eps,
                 cudaStream_t stream);
  bool CanRunNormed(const MatMulOutput& product) const;

 private:
  struct Layout;

  MatMul() = default;

  // What PrepareQuantized's memory holds.
  QuantizedRows Input(int n, int64_t cols) const;
  const char* RunMatVec(const float* x, int64_t x_stride, int n, bool already_quantized,
                        std::span<const MatMulOutput> outputs, cudaStream_t stream);

  int max_rows_ = 0;
  int max_quantized_rows_ = 0;
  int64_t max_cols_ = 0;
  QuantizedRows quantized_[2];  // (max_quantized_rows_, max_cols_): an input and an output
  int current_ = 0;             // of them, PrepareQuantized's
  float* factors_[2] = {};      // of each: a row's squares (max_cols_ / 32), or rows' factors
  bool deferred_ = false;       // the current one is a norm without its end
  float deferred_eps_ = 0;
  std::unique_ptr<HalfMatMul> half_;  // null without cuBLAS
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_MATMUL_CUDA_H_
