// Plain numbers.
#include "kernels/moe/expert_matmul.cuh"

namespace gguf_offload::cuda {

GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kF32, true);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kF16, true);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kBF16, true);

}  // namespace gguf_offload::cuda
