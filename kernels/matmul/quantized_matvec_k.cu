// The K formats.
#include "kernels/matmul/quantized_matvec.cuh"

namespace gguf_offload::cuda {

GGUF_OFFLOAD_INSTANTIATE_MATVEC(kQ2_K);
GGUF_OFFLOAD_INSTANTIATE_MATVEC(kQ3_K);
GGUF_OFFLOAD_INSTANTIATE_MATVEC(kQ4_K);
GGUF_OFFLOAD_INSTANTIATE_MATVEC(kQ5_K);
GGUF_OFFLOAD_INSTANTIATE_MATVEC(kQ6_K);

}  // namespace gguf_offload::cuda
