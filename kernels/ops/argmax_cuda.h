// The largest element of each row of logits, for greedy decoding without bringing them to the host.
#ifndef KERNELS_OPS_ARGMAX_CUDA_H_
#define KERNELS_OPS_ARGMAX_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// What the blocks that share a row meet in. Zero before the first launch; every launch leaves it
// so.
struct ArgMaxCell {
  unsigned long long best;  // the order of the value above, the complement of its index below
  unsigned int blocks_done;
  unsigned int unused;
};

// out[row] = the index of the row's largest element, the smallest of equals; -1 if one is NaN or
// plus infinity, or nothing is greater than minus infinity. Launches that share `cells` must not
// overlap.
void ArgMax(const float* logits,  // (rows, columns), rows stride apart, device memory
            int64_t stride, int rows, int columns,
            int32_t* out,       // (rows), device or mapped host memory
            ArgMaxCell* cells,  // (rows), device memory
            cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_ARGMAX_CUDA_H_
