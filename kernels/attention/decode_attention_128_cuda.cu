#include "kernels/attention/decode_attention.cuh"

namespace gguf_offload::cuda {

template void LaunchDecodeFor<128>(const DecodeArguments&, int, int, cudaStream_t);

}  // namespace gguf_offload::cuda
