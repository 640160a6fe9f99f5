// What experts say, added to the residual stream on the GPU.
#ifndef KERNELS_MOE_EXPERT_SUM_CUDA_H_
#define KERNELS_MOE_EXPERT_SUM_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/moe/router_cuda.h"

namespace gguf_offload::cuda {

// out[row] += sum over the experts chosen for the row of weight * y[pair], in the order in which
// they were chosen. Rows without experts stay as they are. Strides are in floats and, as `cols`,
// multiples of 4; rows are aligned to 16 bytes. Adds to `uses` how many pairs each expert has.
void AddWeightedExperts(const ChosenExperts& chosen,
                        const float* y,  // (pairs, cols), rows y_stride apart
                        int64_t y_stride, int64_t cols,
                        float* out,  // (rows, cols), rows out_stride apart
                        int64_t out_stride,
                        uint32_t* uses,  // (experts), or null
                        cudaStream_t stream);

// out[row] += sigmoid(gate[row]) * x[row]
void AddGated(const float* x,  // (rows, cols), rows x_stride apart
              int64_t x_stride,
              const float* gate,  // (rows, 1), rows gate_stride apart
              int64_t gate_stride, int rows, int64_t cols,
              float* out,  // (rows, cols), rows out_stride apart
              int64_t out_stride, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_SUM_CUDA_H_
