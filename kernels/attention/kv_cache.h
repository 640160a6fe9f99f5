// The layout of a paged key-value cache and the operation that writes to it.
//
// A page holds kPageTokens consecutive token positions of one sequence in one layer; position p of
// a sequence is in the page that entry p / kPageTokens of its page table names, at slot p %
// kPageTokens. Keys of a page: (n_kv_heads, kPageTokens, k_dim); values: (n_kv_heads, kPageTokens,
// v_dim); so what one head reads of a page is contiguous.
//
// With multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) the values are the first v_dim
// elements of the keys, and there is no second copy of them.
#ifndef KERNELS_ATTENTION_KV_CACHE_H_
#define KERNELS_ATTENTION_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

inline constexpr int kPageTokens = 32;

enum class KvType { kFloat32, kFloat16 };

inline constexpr size_t KvElementBytes(KvType type) { return type == KvType::kFloat16 ? 2 : 4; }

// One layer's keys and values. Does not own the memory, which must be aligned to 64 bytes.
struct KvLayer {
  KvType type = KvType::kFloat32;
  uint8_t* keys = nullptr;  // (pages, n_kv_heads, kPageTokens, k_dim)
  // (pages, n_kv_heads, kPageTokens, v_dim); null if the values are in the keys
  uint8_t* values = nullptr;
  int n_kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;                // at most k_dim if the values are in the keys
  bool values_in_keys = false;  // a value is the first v_dim elements of its key

  size_t PageKeyBytes() const {
    return static_cast<size_t>(n_kv_heads) * kPageTokens * k_dim * KvElementBytes(type);
  }
  size_t PageValueBytes() const {
    if (values_in_keys) return 0;
    return static_cast<size_t>(n_kv_heads) * kPageTokens * v_dim * KvElementBytes(type);
  }
  // Where the keys (kPageTokens, k_dim) of a head in a page begin.
  uint8_t* Keys(int32_t page, int head) const {
    return keys + page * PageKeyBytes() +
           static_cast<size_t>(head) * kPageTokens * k_dim * KvElementBytes(type);
  }
  // Where the values (kPageTokens, v_dim) of a head in a page begin; not if they are in the keys.
  uint8_t* Values(int32_t page, int head) const {
    return values + page * PageValueBytes() +
           static_cast<size_t>(head) * kPageTokens * v_dim * KvElementBytes(type);
  }
};

// The rows of a batch that belong to one sequence: consecutive rows, consecutive positions.
struct SequenceRows {
  size_t first_row = 0;            // in the batch's tensors
  int rows = 0;                    // how many
  int first_position = 0;          // of the first row
  const int32_t* pages = nullptr;  // ((first_position + rows + kPageTokens - 1) / kPageTokens)
};

// Stores the keys and values of every row of the batch at its position, as float16 rounded to the
// nearest where the machine has the instruction. Strides are in elements. No allocation.
void WriteKv(const float* k,  // (n, n_kv_heads, k_dim), rows k_stride apart
             size_t k_stride,
             const float* v,  // (n, n_kv_heads, v_dim), rows v_stride apart; null if in the keys
             size_t v_stride, std::span<const SequenceRows> batch, const KvLayer& layer,
             ThreadPool& pool);

}  // namespace gguf_offload

#endif  // KERNELS_ATTENTION_KV_CACHE_H_
