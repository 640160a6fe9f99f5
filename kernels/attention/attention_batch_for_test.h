// Batches for the tests of attention on the GPU: sequences whose keys and values lie in a cache
// with shuffled pages, and what attention over them is by definition.
#ifndef KERNELS_ATTENTION_ATTENTION_BATCH_FOR_TEST_H_
#define KERNELS_ATTENTION_ATTENTION_BATCH_FOR_TEST_H_

#include <cuda_fp16.h>

#include <cstdint>
#include <vector>

#include "kernels/attention/attention_cuda.h"
#include "kernels/quant/device_array_for_test.h"

namespace gguf_offload::cuda {

struct AttentionShape {
  int heads, kv_heads, key_dim, value_dim;
  int window = 0;
  bool sinks = false;
  float sharpness = 1;  // scores are that much larger than usual
  bool values_in_keys = false;
};

// Consecutive rows at the end of a sequence.
struct SequenceEnd {
  int first_position;
  int rows;
};

// Queries of all sequences, in their order, begin at row 1 of the tensors; row 0 belongs to nobody.
// Every slot of the cache that no row may see is NaN, and entries of page tables for pages that no
// row sees are far outside the cache.
class AttentionBatch {
 public:
  AttentionBatch(const AttentionShape& shape, const std::vector<SequenceEnd>& sequences, int seed);

  int rows() const { return rows_; }  // row 0 included
  int64_t q_stride() const { return q_stride_; }
  int64_t out_stride() const { return out_stride_; }

  AttentionRows Rows(float* out) { return {q_.data(), q_stride_, out, out_stride_, {}}; }
  const int32_t* pages() { return pages_.data(); }
  KvLayer layer();
  AttentionSpec spec();
  // The cache as it is now.
  std::vector<__half> keys() const { return keys_.ToHost(); }
  std::vector<__half> values() const { return values_.ToHost(); }

  // One entry a row, in a shuffled order, with a row at a negative position among them.
  const std::vector<DecodeRow>& decode_rows() const { return decode_rows_; }
  // All rows in tiles of at most `tile_rows`.
  std::vector<PrefillTile> Tiles(int tile_rows) const;

  // Expects that `out` (rows(), out_stride()) deviates from the definition by at most `tolerance`
  // times the mean magnitude of the values that a row sees, as its softmax weighs them, and that
  // row 0 and the padding of the others are NaN.
  void ExpectAttention(const std::vector<float>& out, double tolerance) const;

 private:
  void FillCache(const std::vector<SequenceEnd>& sequences);
  int FirstVisible(int position) const;
  size_t Slot(int sequence, int position, int kv_head) const;
  void ExpectHead(int sequence, int position, int head, const float* q, const float* out,
                  double tolerance) const;

  AttentionShape shape_;
  std::vector<SequenceEnd> sequences_;
  int rows_ = 1;
  int64_t q_stride_, out_stride_;
  std::vector<int32_t> first_pages_;  // of each sequence in page_table_
  std::vector<int32_t> page_table_;
  std::vector<float> host_q_, host_sinks_;
  std::vector<__half> host_keys_, host_values_;
  std::vector<DecodeRow> decode_rows_;

  DeviceArray<float> q_, sinks_;
  DeviceArray<__half> keys_, values_;
  DeviceArray<int32_t> pages_;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_ATTENTION_ATTENTION_BATCH_FOR_TEST_H_
