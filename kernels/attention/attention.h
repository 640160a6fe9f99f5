// Causal grouped-query attention over a paged key-value cache, on the CPU.
//
// For each row (a token of a sequence) and head, out = softmax(scale * q . K) V over the keys at
// positions up to the row's own. Keys and values of the rows themselves must be in the cache
// already (WriteKv).
//
// The result of a row is bit-identical whatever else is in the batch, however its prompt is cut
// into pieces and whatever the number of threads: scores are summed over fixed lanes, the softmax
// goes page by page (Milakov and Gimelshein 2018, arXiv:1805.02867) within splits of kSplitTokens
// positions, and splits are merged in the order of their positions, always.
#ifndef KERNELS_ATTENTION_ATTENTION_H_
#define KERNELS_ATTENTION_ATTENTION_H_

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/attention/kv_cache.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// Positions whose softmax is computed on its own, so that threads can share one long sequence.
inline constexpr int kSplitTokens = 512;
static_assert(kSplitTokens % kPageTokens == 0);

struct AttentionOptions {
  int n_heads = 0;     // a multiple of the cache's n_kv_heads
  float scale = 1.0f;  // of q . k, usually 1 / sqrt(k_dim)
  int window = 0;      // a row at position p sees keys at positions > p - window; 0: all
  float softcap = 0;   // c: scores become c * tanh(score / c); 0: none
  // One logit a head that takes part in the softmax's denominator only (gpt-oss).
  const float* sinks = nullptr;  // (n_heads) or null
};

// Memory that Attention works in. It only grows, up to a size that depends on the number of
// threads, k_dim, v_dim and the number of sequences, never on the number of positions. Thread
// compatible; may be shared by all layers.
class AttentionWorkspace {
 public:
  // At least `floats` floats, aligned to 64 bytes; contents are undefined.
  float* Floats(size_t floats);
  // At least `count` numbers; contents are undefined.
  size_t* Sizes(size_t count);

 private:
  struct alignas(64) CacheLine {
    float floats[16];
  };
  std::vector<CacheLine> lines_;
  std::vector<size_t> sizes_;
};

// Strides are in elements. Entries of page tables for pages that lie wholly before the window of
// all rows of a sequence are not read.
void Attention(const float* q,  // (n, n_heads, k_dim), rows q_stride apart
               size_t q_stride, std::span<const SequenceRows> batch, const KvLayer& layer,
               const AttentionOptions& options,
               float* out,  // (n, n_heads, v_dim), rows out_stride apart
               size_t out_stride, AttentionWorkspace& workspace, ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_ATTENTION_ATTENTION_H_
