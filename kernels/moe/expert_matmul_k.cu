// The K formats.
#include "kernels/moe/expert_matmul.cuh"

namespace gguf_offload::cuda {

GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kQ2_K, false);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kQ3_K, false);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kQ4_K, false);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kQ5_K, false);
GGUF_OFFLOAD_INSTANTIATE_EXPERT_MATMUL(kQ6_K, false);

}  // namespace gguf_offload::cuda
