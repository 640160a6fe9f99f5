// cuBLAS, found when the program runs: the few functions that the project calls, from the
// libcublas.so of CUDA 13 or 12 if the machine has one. The program itself does not link it, so it
// starts without it too.
#ifndef KERNELS_MATMUL_CUBLAS_LIBRARY_H_
#define KERNELS_MATMUL_CUBLAS_LIBRARY_H_

#include <cublas_api.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

namespace gguf_offload::cuda {

// Owns the loaded library; handles made with it must not outlive it. Thread safe.
class CublasLibrary {
 public:
  // Null, with the reason in `error`, if there is no library or it lacks a function.
  static std::unique_ptr<CublasLibrary> Load(std::string& error);

  ~CublasLibrary();
  CublasLibrary(const CublasLibrary&) = delete;
  CublasLibrary& operator=(const CublasLibrary&) = delete;

  // As in cublas_v2.h.
  cublasStatus_t (*create)(cublasHandle_t* handle) = nullptr;
  cublasStatus_t (*destroy)(cublasHandle_t handle) = nullptr;
  cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream) = nullptr;
  cublasStatus_t (*set_workspace)(cublasHandle_t handle, void* workspace, size_t bytes) = nullptr;
  const char* (*status_string)(cublasStatus_t status) = nullptr;
  cublasStatus_t (*gemm_ex)(cublasHandle_t handle, cublasOperation_t transpose_a,
                            cublasOperation_t transpose_b, int m, int n, int k, const void* alpha,
                            const void* a, cudaDataType a_type, int lda, const void* b,
                            cudaDataType b_type, int ldb, const void* beta, void* c,
                            cudaDataType c_type, int ldc, cublasComputeType_t compute_type,
                            cublasGemmAlgo_t algorithm) = nullptr;

 private:
  CublasLibrary() = default;

  void* library_ = nullptr;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_CUBLAS_LIBRARY_H_
