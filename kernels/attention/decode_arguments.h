// What the parts of DecodeAttention pass on: attention_cuda.cu to the sources with its kernels.
#ifndef KERNELS_ATTENTION_DECODE_ARGUMENTS_H_
#define KERNELS_ATTENTION_DECODE_ARGUMENTS_H_

#include "kernels/attention/attention_cuda.h"

namespace gguf_offload::cuda {

struct DecodeArguments {
  AttentionRows rows;
  const DecodeRow* decode_rows;
  const int32_t* pages;
  KvLayer layer;
  AttentionSpec spec;
  DecodeSplits splits;
  DecodeWorkspace workspace;
  // (rows, heads, splits): largest score and sum, behind the partial values
  float2* partial_softmax;
  int tiles;                // a key-value head's query heads are cut into this many tiles
  bool quantize;            // write rows.quantized
  RotateAndStore rotation;  // of no rows: queries are rotated, and the cache has all keys
};

// The most query heads that a block serves: registers for more run out with large heads.
inline constexpr int MostDecodeHeads(int dims) { return dims <= 128 ? 16 : 8; }

// Heads of up to kDims elements, tile_heads of them at most a block. Defined, for 64, 128 and 256,
// in decode_attention_<kDims>_cuda.cu.
template <int kDims>
void LaunchDecodeFor(const DecodeArguments& arguments, int tile_heads, int n_decode_rows,
                     cudaStream_t stream);

extern template void LaunchDecodeFor<64>(const DecodeArguments&, int, int, cudaStream_t);
extern template void LaunchDecodeFor<128>(const DecodeArguments&, int, int, cudaStream_t);
extern template void LaunchDecodeFor<256>(const DecodeArguments&, int, int, cudaStream_t);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_DECODE_ARGUMENTS_H_
