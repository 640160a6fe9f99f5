// The product that the project takes from cuBLAS, for the emulator.
#include "kernels/matmul/cublas_library.h"

#include <cuda_fp16.h>

#include <functional>

namespace cuda_emulator {
void LaunchOn(cudaStream_t stream, std::function<void()> work);
}

namespace gguf_offload::cuda {
namespace {

struct Handle {
  cudaStream_t stream = nullptr;
};

float At(const void* data, cudaDataType type, int64_t index) {
  return type == CUDA_R_16F ? __half2float(static_cast<const __half*>(data)[index])
                            : static_cast<const float*>(data)[index];
}

// c = alpha * op(a) * op(b) + beta * c, column-major; see cublasGemmEx in cublas_v2.h.
cublasStatus_t Gemm(cublasHandle_t handle, cublasOperation_t transpose_a,
                    cublasOperation_t transpose_b, int m, int n, int k, const void* alpha,
                    const void* a, cudaDataType a_type, int lda, const void* b, cudaDataType b_type,
                    int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                    cublasComputeType_t, cublasGemmAlgo_t) {
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  if (c_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  cuda_emulator::LaunchOn(reinterpret_cast<Handle*>(handle)->stream, [=] {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < m; ++i) {
        float sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum += At(a, a_type, transpose_a == CUBLAS_OP_N ? l * lda + i : i * lda + l) *
                 At(b, b_type, transpose_b == CUBLAS_OP_N ? j * ldb + l : l * ldb + j);
        }
        float& out = static_cast<float*>(c)[j * ldc + i];
        out = scale * sum + (keep == 0 ? 0 : keep * out);
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

std::unique_ptr<CublasLibrary> CublasLibrary::Load(std::string& error) {
  std::unique_ptr<CublasLibrary> library(new CublasLibrary);
  library->create = [](cublasHandle_t* handle) {
    *handle = reinterpret_cast<cublasHandle_t>(new Handle);
    return CUBLAS_STATUS_SUCCESS;
  };
  library->destroy = [](cublasHandle_t handle) {
    delete reinterpret_cast<Handle*>(handle);
    return CUBLAS_STATUS_SUCCESS;
  };
  library->set_stream = [](cublasHandle_t handle, cudaStream_t stream) {
    reinterpret_cast<Handle*>(handle)->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
  };
  library->set_workspace = [](cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; };
  library->status_string = [](cublasStatus_t) { return "an error"; };
  library->gemm_ex = Gemm;
  return library;
}

CublasLibrary::~CublasLibrary() = default;

}  // namespace gguf_offload::cuda
