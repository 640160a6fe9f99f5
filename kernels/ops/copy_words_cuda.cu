#include <algorithm>

#include "kernels/ops/copy_words_cuda.h"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

// Volatile reads: what an earlier run left in a cache is not what the host wrote since. Vectors of
// four words, as a read across the link costs the same whatever its size.
__global__ void CopyKernel(const uint32_t* from, uint32_t* to, int64_t vectors, int64_t words) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < vectors; i += threads) {
    reinterpret_cast<uint4*>(to)[i] = __ldcv(reinterpret_cast<const uint4*>(from) + i);
  }
  for (int64_t i = 4 * vectors + first; i < words; i += threads) to[i] = __ldcv(from + i);
}

}  // namespace

void CopyFromHost(const uint32_t* mapped_host, uint32_t* device, int64_t n_words,
                  cudaStream_t stream) {
  if (n_words <= 0) return;
  const bool aligned = SixteenByteRows(mapped_host) && SixteenByteRows(device);
  const int64_t vectors = aligned ? n_words / 4 : 0;
  const int64_t items = std::max(vectors, n_words - 4 * vectors);
  const int blocks = static_cast<int>(std::min<int64_t>(64, (items + 127) / 128));
  CopyKernel<<<blocks, 128, 0, stream>>>(mapped_host, device, vectors, n_words);
}

}  // namespace gguf_offload::cuda
