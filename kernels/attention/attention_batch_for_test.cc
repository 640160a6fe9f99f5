#include "kernels/attention/attention_batch_for_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace gguf_offload::cuda {
namespace {

constexpr int32_t kNoPage = 1 << 30;

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.3f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

int Pages(int positions) { return (positions + kPageTokens - 1) / kPageTokens; }

int TotalPages(const std::vector<SequenceEnd>& sequences) {
  int pages = 0;
  for (const SequenceEnd& s : sequences) pages += Pages(s.first_position + s.rows);
  return pages;
}

int TotalRows(const std::vector<SequenceEnd>& sequences) {
  int rows = 1;
  for (const SequenceEnd& s : sequences) rows += s.rows;
  return rows;
}

float Scale(const AttentionShape& shape) {
  return shape.sharpness / std::sqrt(1.0f * shape.key_dim);
}

}  // namespace

AttentionBatch::AttentionBatch(const AttentionShape& shape,
                               const std::vector<SequenceEnd>& sequences, int seed)
    : shape_(shape),
      sequences_(sequences),
      rows_(TotalRows(sequences)),
      q_stride_((shape.heads * shape.key_dim + 15) / 16 * 16 + 16),
      out_stride_((shape.heads * shape.value_dim + 15) / 16 * 16 + 16),
      host_q_(Random(rows_ * q_stride_, seed)),
      host_sinks_(Random(shape.heads, seed + 1)),
      q_(host_q_),
      sinks_(host_sinks_),
      keys_(static_cast<size_t>(TotalPages(sequences) + 1) * shape.kv_heads * kPageTokens *
            shape.key_dim),
      values_(static_cast<size_t>(TotalPages(sequences) + 1) * shape.kv_heads * kPageTokens *
              shape.value_dim),
      pages_(TotalPages(sequences)) {
  FillCache(sequences);
  CheckCuda(
      cudaMemcpy(keys_.data(), host_keys_.data(), 2 * host_keys_.size(), cudaMemcpyHostToDevice));
  CheckCuda(cudaMemcpy(values_.data(), host_values_.data(), 2 * host_values_.size(),
                       cudaMemcpyHostToDevice));
  CheckCuda(cudaMemcpy(pages_.data(), page_table_.data(), 4 * page_table_.size(),
                       cudaMemcpyHostToDevice));
  int row = 1;
  for (size_t i = 0; i < sequences.size(); ++i) {
    for (int j = 0; j < sequences[i].rows; ++j) {
      decode_rows_.push_back({row++, sequences[i].first_position + j, first_pages_[i]});
    }
  }
  decode_rows_.push_back({0, -1, 0});
  std::shuffle(decode_rows_.begin(), decode_rows_.end(), std::mt19937(seed));
}

void AttentionBatch::FillCache(const std::vector<SequenceEnd>& sequences) {
  host_keys_ = keys_.ToHost();  // all NaN
  host_values_ = values_.ToHost();
  std::vector<int32_t> free(TotalPages(sequences));
  for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i) + 1;
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::shuffle(free.begin(), free.end(), random);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int first_visible = FirstVisible(sequences[i].first_position);
    const int positions = sequences[i].first_position + sequences[i].rows;
    first_pages_.push_back(static_cast<int32_t>(page_table_.size()));
    for (int page = 0; page < Pages(positions); ++page) {
      const bool seen = page >= first_visible / kPageTokens;
      page_table_.push_back(seen ? free.back() : kNoPage);
      free.pop_back();
    }
    for (int position = first_visible; position < positions; ++position) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const size_t slot = Slot(static_cast<int>(i), position, head);
        __half* key = &host_keys_[slot * shape_.key_dim];
        __half* value = &host_values_[slot * shape_.value_dim];
        for (int d = 0; d < shape_.key_dim; ++d) key[d] = __float2half_rn(normal(random));
        for (int d = 0; d < shape_.value_dim; ++d) {
          value[d] = shape_.values_in_keys ? key[d] : __float2half_rn(normal(random));
        }
      }
    }
  }
}

KvLayer AttentionBatch::layer() {
  return {keys_.data(), values_.data(), shape_.kv_heads, shape_.key_dim, shape_.value_dim};
}

AttentionSpec AttentionBatch::spec() {
  return {shape_.heads, Scale(shape_), shape_.window, shape_.sinks ? sinks_.data() : nullptr};
}

std::vector<PrefillTile> AttentionBatch::Tiles(int tile_rows) const {
  std::vector<PrefillTile> tiles = {{0, 0, 0, 0}};
  int row = 1;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    for (int j = 0; j < sequences_[i].rows; j += tile_rows) {
      tiles.push_back({row + j, std::min(tile_rows, sequences_[i].rows - j),
                       sequences_[i].first_position + j, first_pages_[i]});
    }
    row += sequences_[i].rows;
  }
  return tiles;
}

int AttentionBatch::FirstVisible(int position) const {
  return shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
}

size_t AttentionBatch::Slot(int sequence, int position, int kv_head) const {
  const size_t page = page_table_[first_pages_[sequence] + position / kPageTokens];
  return (page * shape_.kv_heads + kv_head) * kPageTokens + position % kPageTokens;
}

void AttentionBatch::ExpectAttention(const std::vector<float>& out, double tolerance) const {
  const int out_columns = shape_.heads * shape_.value_dim;
  int row = 0;
  for (int64_t i = 0; i < out_stride_; ++i) ASSERT_TRUE(std::isnan(out[i])) << i;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    for (int j = 0; j < sequences_[s].rows; ++j) {
      ++row;
      for (int head = 0; head < shape_.heads; ++head) {
        ExpectHead(static_cast<int>(s), sequences_[s].first_position + j, head,
                   &host_q_[row * q_stride_ + head * shape_.key_dim],
                   &out[row * out_stride_ + head * shape_.value_dim], tolerance);
        if (testing::Test::HasFatalFailure()) return;
      }
      for (int64_t i = out_columns; i < out_stride_; ++i) {
        ASSERT_TRUE(std::isnan(out[row * out_stride_ + i])) << row << " " << i;
      }
    }
  }
}

void AttentionBatch::ExpectHead(int sequence, int position, int head, const float* q,
                                const float* out, double tolerance) const {
  const int kv_head = head / (shape_.heads / shape_.kv_heads);
  const int first = FirstVisible(position);
  std::vector<double> scores;
  double largest = shape_.sinks ? host_sinks_[head] : -INFINITY;
  for (int key = first; key <= position; ++key) {
    const __half* k = &host_keys_[Slot(sequence, key, kv_head) * shape_.key_dim];
    double score = 0;
    for (int d = 0; d < shape_.key_dim; ++d) score += double{q[d]} * __half2float(k[d]);
    scores.push_back(score * Scale(shape_));
    largest = std::max(largest, scores.back());
  }
  double sum = shape_.sinks ? std::exp(host_sinks_[head] - largest) : 0;
  std::vector<double> expected(shape_.value_dim), magnitude(shape_.value_dim);
  for (int key = first; key <= position; ++key) {
    const __half* v = &host_values_[Slot(sequence, key, kv_head) * shape_.value_dim];
    const double weight = std::exp(scores[key - first] - largest);
    sum += weight;
    for (int d = 0; d < shape_.value_dim; ++d) {
      expected[d] += weight * __half2float(v[d]);
      magnitude[d] += weight * std::abs(__half2float(v[d]));
    }
  }
  for (int d = 0; d < shape_.value_dim; ++d) {
    ASSERT_LE(std::abs(out[d] - expected[d] / sum), tolerance * magnitude[d] / sum + 1e-6)
        << "sequence " << sequence << " position " << position << " head " << head << " dim " << d
        << ": " << out[d] << " instead of " << expected[d] / sum;
  }
}

}  // namespace gguf_offload::cuda
