// Attention over a cache of latent vectors (multi-head latent attention, DeepSeek-V2,
// arXiv:2405.04434), on the GPU: all heads of a row share one key a position, and a value is the
// first value_dim elements of its key, so that each position is read once for both.
//
// Everything else is as attention_cuda.h says; no windows and no sinks.
#ifndef KERNELS_ATTENTION_LATENT_ATTENTION_CUDA_H_
#define KERNELS_ATTENTION_LATENT_ATTENTION_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention_cuda.h"
#include "kernels/ops/read_ahead.h"

namespace gguf_offload::cuda {

inline constexpr int kMaxLatentKeyDim = 576;
inline constexpr int kMaxLatentValueDim = 512;

DecodeSplits ChooseLatentSplits(int rows, int heads, int multiprocessors);
// What DecodeLatentAttention needs of DecodeWorkspace::partials; it needs no counters.
size_t LatentPartialFloats(int rows, int heads, int value_dim, const DecodeSplits& splits);

// `layer` has one head, and its values are not looked at. The result is written in float32 only.
// Blocks that have no part of a short sequence begin to bring `ahead` nearer.
void DecodeLatentAttention(const AttentionRows& rows, const DecodeRow* decode_rows,
                           int n_decode_rows, const int32_t* pages, const KvLayer& layer,
                           const AttentionSpec& spec, const DecodeSplits& splits, float* partials,
                           const ReadAhead& ahead, cudaStream_t stream);

void PrefillLatentAttention(const AttentionRows& rows, const PrefillTile* tiles, int n_tiles,
                            const int32_t* pages, const KvLayer& layer, const AttentionSpec& spec,
                            cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_LATENT_ATTENTION_CUDA_H_
