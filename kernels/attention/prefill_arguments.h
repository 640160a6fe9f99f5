// What the parts of PrefillAttention pass on: attention_cuda.cu to the sources with its kernels.
#ifndef KERNELS_ATTENTION_PREFILL_ARGUMENTS_H_
#define KERNELS_ATTENTION_PREFILL_ARGUMENTS_H_

#include "kernels/attention/attention_cuda.h"

namespace gguf_offload::cuda {

struct PrefillArguments {
  AttentionRows rows;
  const PrefillTile* tiles;
  const int32_t* pages;
  KvLayer layer;
  AttentionSpec spec;
  bool quantize;    // write rows.quantized
  int block_heads;  // query heads of one key-value head that a block serves: 1 or 2
};

// The most that block_heads may be: shared memory for more runs out with large heads.
inline constexpr int MostPrefillHeads(int dims) { return dims <= 128 ? 2 : 1; }

// Heads of up to kDims elements. Defined, for 64, 128 and 256, in
// prefill_attention_<kDims>_cuda.cu.
template <int kDims>
void LaunchPrefillFor(const PrefillArguments& arguments, int n_tiles, cudaStream_t stream);

extern template void LaunchPrefillFor<64>(const PrefillArguments&, int, cudaStream_t);
extern template void LaunchPrefillFor<128>(const PrefillArguments&, int, cudaStream_t);
extern template void LaunchPrefillFor<256>(const PrefillArguments&, int, cudaStream_t);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_PREFILL_ARGUMENTS_H_
