// Brings a step's small inputs (token ids, positions, page tables) to the GPU with a kernel instead
// of the copy engine, so that they do not queue behind megabytes of weights and can be part of a
// captured graph that reads whatever the host wrote last.
#ifndef KERNELS_OPS_COPY_WORDS_CUDA_H_
#define KERNELS_OPS_COPY_WORDS_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gguf_offload::cuda {

// device[i] = mapped_host[i]. The host must not write to the words until the kernel has run.
void CopyFromHost(const uint32_t* mapped_host,  // (n_words): device address of mapped host memory
                  uint32_t* device,             // (n_words)
                  int64_t n_words, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_COPY_WORDS_CUDA_H_
