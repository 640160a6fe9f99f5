#include "kernels/attention/prefill_attention.cuh"

namespace gguf_offload::cuda {

template void LaunchPrefillFor<256>(const PrefillArguments&, int, cudaStream_t);

}  // namespace gguf_offload::cuda
