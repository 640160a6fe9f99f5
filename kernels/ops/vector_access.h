// Whether a tensor's rows can be read and written 16 bytes at a time.
#ifndef KERNELS_OPS_VECTOR_ACCESS_H_
#define KERNELS_OPS_VECTOR_ACCESS_H_

#include <cstdint>

namespace gguf_offload::cuda {

// Null is.
inline bool SixteenByteRows(const void* rows, int64_t stride_elements = 0) {
  return reinterpret_cast<uintptr_t>(rows) % 16 == 0 &&
         (rows == nullptr || stride_elements % 4 == 0);
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_VECTOR_ACCESS_H_
