#include "kernels/attention/prefill_attention.cuh"

namespace gguf_offload::cuda {

template void LaunchPrefillFor<128>(const PrefillArguments&, int, cudaStream_t);

}  // namespace gguf_offload::cuda
