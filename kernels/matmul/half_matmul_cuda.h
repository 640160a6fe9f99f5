// Products of weight matrices with many columns of activations on the GPU's tensor cores: weights
// are expanded to half precision (binary16) part by part and multiplied by cuBLAS, with sums in
// float32.
#ifndef KERNELS_MATMUL_HALF_MATMUL_CUDA_H_
#define KERNELS_MATMUL_HALF_MATMUL_CUDA_H_

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/matmul/cublas_library.h"
#include "kernels/matmul/matmul_output_cuda.h"

namespace gguf_offload::cuda {

// Owns a cuBLAS handle of the current device; the library and the memory must outlive it. Thread
// compatible; calls queue their work on a stream, so those that use the same memory must follow
// one another on it.
class HalfMatMul {
 public:
  // Device memory, all of it 256-byte aligned.
  struct Memory {
    __half* x;            // (n, PadHalfColumns(cols)) for the largest n and cols
    float* row_scale;     // (n)
    __half* weight;       // parts of a weight, at least LeastWeightBytes(cols)
    size_t weight_bytes;  // of `weight`
    void* workspace;      // cuBLAS's own
    size_t workspace_bytes;
  };

  // Bytes that the smallest part of a weight of `cols` columns needs.
  static size_t LeastWeightBytes(int64_t cols);

  // Null, with the reason in `error`, if cuBLAS cannot be used.
  static std::unique_ptr<HalfMatMul> Create(const CublasLibrary& library, const Memory& memory,
                                            std::string& error);

  ~HalfMatMul();
  HalfMatMul(const HalfMatMul&) = delete;
  HalfMatMul& operator=(const HalfMatMul&) = delete;

  // Says what the next products multiply with. x: (n, cols) with a row stride of x_stride floats.
  void SetActivations(const float* x, int64_t x_stride, int n);

  // y[i][r] = sum over c of weight[r][c] * x[i][c], plus bias[r]. F32 weights are multiplied in
  // float32. Null, or what cuBLAS says went wrong.
  [[nodiscard]] const char* Multiply(const MatMulOutput& output, cudaStream_t stream);

 private:
  HalfMatMul(const CublasLibrary& library, const Memory& memory)
      : library_(library), memory_(memory) {}

  const char* UseStream(cudaStream_t stream);
  const char* MultiplyPart(const void* weight, cudaDataType type, int64_t weight_stride,
                           const void* x, int64_t x_stride, int64_t rows, int64_t cols, float* y,
                           int64_t y_stride);
  const char* MultiplyHalf(const MatMulOutput& output, cudaStream_t stream);

  const CublasLibrary& library_;
  const Memory memory_;
  cublasHandle_t handle_ = nullptr;
  // Of SetActivations.
  const float* x_ = nullptr;
  int64_t x_stride_ = 0;
  int n_ = 0;
  bool converted_ = false;  // memory_.x holds x_
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_HALF_MATMUL_CUDA_H_
