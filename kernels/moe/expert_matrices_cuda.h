// One matrix of each expert of a layer, in GPU memory: all of them side by side as in the file, or
// some in the slots of a cache.
#ifndef KERNELS_MOE_EXPERT_MATRICES_CUDA_H_
#define KERNELS_MOE_EXPERT_MATRICES_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// Pointers are device memory. The 16 bytes before and behind the matrices must be readable.
struct ExpertMatrices {
  quant::TensorType type = quant::TensorType::kF32;
  int64_t rows = 0;  // of each
  int64_t cols = 0;
  const float* bias = nullptr;    // (experts, rows), or null
  const uint8_t* data = nullptr;  // (experts, rows, cols), 8-byte aligned; or that of slot 0

  // Where there are fewer slots than experts: expert e is in slot slots[e], slot_stride bytes from
  // the one before, at the address modulo 16 that it has in the file.
  const int32_t* slots = nullptr;  // (experts), or null
  int64_t slot_stride = 0;         // a multiple of 16
  int file_phase = 0;              // address modulo 16 of expert 0 in the file

  // Bytes from one expert's matrix to the next, in the file and without slots; 0: side by side.
  int64_t stride = 0;
  const float* scale = nullptr;  // (experts) factors of the products, ahead of the bias, or null

  int64_t matrix_bytes() const {
    return rows * static_cast<int64_t>(quant::RowBytes(quant::FormatOf(type), cols));
  }
};

#ifdef __CUDACC__

// Where the matrix of `expert`, of `bytes` bytes like all others, begins. Its slot is read past the
// first-level cache, which may still have an earlier one where a kernel does not wait for those
// ahead of it.
__device__ __forceinline__ const uint8_t* MatrixOf(const ExpertMatrices& matrices, int expert,
                                                   int64_t bytes) {
  const int64_t offset = expert * (matrices.stride != 0 ? matrices.stride : bytes);
  if (matrices.slots == nullptr) return matrices.data + offset;
  return matrices.data + __ldcg(&matrices.slots[expert]) * matrices.slot_stride +
         ((matrices.file_phase + offset) & 15);
}

#endif  // __CUDACC__

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_MATRICES_CUDA_H_
