// Copies chosen rows of a tensor on the GPU (the rows of a step whose logits are wanted).
#ifndef KERNELS_OPS_GATHER_CUDA_H_
#define KERNELS_OPS_GATHER_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// out[i] = x[rows[i]]. Device memory; strides in elements; 16-byte aligned rows are fastest. A
// negative rows[i] leaves row i of `out` as it is.
void GatherRows(const float* x,  // (any, cols), rows x_stride apart
                int64_t x_stride,
                const int32_t* rows,  // (n)
                int n, int cols,
                float* out,  // (n, cols), rows out_stride apart
                int64_t out_stride, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_GATHER_CUDA_H_
