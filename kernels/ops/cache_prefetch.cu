#include "kernels/ops/cache_prefetch.cuh"

namespace gguf_offload::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 128;

__global__ void __launch_bounds__(kThreads)
    PrefetchKernel(const __grid_constant__ CachePrefetch what) {
  BeginPrefetch(what, blockIdx.x, gridDim.x);
}

}  // namespace

void PrefetchToCache(const CachePrefetch& what, cudaStream_t stream) {
  if (what.matrices[0].rows > 0) PrefetchKernel<<<kBlocks, kThreads, 0, stream>>>(what);
}

}  // namespace gguf_offload::cuda
