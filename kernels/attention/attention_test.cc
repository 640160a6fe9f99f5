#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

struct Shape {
  int n_heads, n_kv_heads, k_dim, v_dim;
  KvType type = KvType::kFloat32;
  int window = 0;
  float softcap = 0;
  bool sinks = false;
  bool values_in_keys = false;
};

std::string Describe(const Shape& s) {
  return "heads " + std::to_string(s.n_heads) + "/" + std::to_string(s.n_kv_heads) + " k_dim " +
         std::to_string(s.k_dim) + " v_dim " + std::to_string(s.v_dim) +
         (s.type == KvType::kFloat16 ? " float16" : "") + " window " + std::to_string(s.window) +
         " softcap " + std::to_string(s.softcap) + (s.sinks ? " sinks" : "") +
         (s.values_in_keys ? " values in keys" : "");
}

// Queries, keys and values of one sequence. All are multiples of 1/64 in [-2, 2], so that float16
// holds them exactly.
struct Sequence {
  Sequence(const Shape& shape, int tokens, int seed) : tokens(tokens) {
    std::mt19937 random(seed);
    std::uniform_int_distribution<int> sixty_fourths(-128, 128);
    const auto fill = [&](std::vector<float>& x, int heads, int dim) {
      x.resize(static_cast<size_t>(tokens) * heads * dim);
      for (float& value : x) value = sixty_fourths(random) / 64.0f;
    };
    fill(q, shape.n_heads, shape.k_dim);
    fill(k, shape.n_kv_heads, shape.k_dim);
    fill(v, shape.n_kv_heads, shape.v_dim);
    if (!shape.values_in_keys) return;
    for (int i = 0; i < tokens * shape.n_kv_heads; ++i) {
      std::copy_n(&k[static_cast<size_t>(i) * shape.k_dim], shape.v_dim,
                  &v[static_cast<size_t>(i) * shape.v_dim]);
    }
  }
  int tokens;
  std::vector<float> q;  // (tokens, n_heads, k_dim)
  std::vector<float> k;  // (tokens, n_kv_heads, k_dim)
  std::vector<float> v;  // (tokens, n_kv_heads, v_dim)
};

// One layer's cache, all NaN at first, which hands out its pages in a scattered order. Page 0 is
// never handed out.
class Cache {
 public:
  Cache(const Shape& shape, int pages) {
    layer.type = shape.type;
    layer.n_kv_heads = shape.n_kv_heads;
    layer.k_dim = shape.k_dim;
    layer.v_dim = shape.v_dim;
    layer.values_in_keys = shape.values_in_keys;
    keys_.assign((pages + 1) * layer.PageKeyBytes(), 0xFF);
    values_.assign((pages + 1) * layer.PageValueBytes(), 0xFF);
    layer.keys = keys_.data();
    layer.values = values_.data();
    for (int page = 1; page <= pages; ++page) free_.push_back(page);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(7));
  }
  std::vector<int32_t> PagesFor(int tokens) {
    const int count = (tokens + kPageTokens - 1) / kPageTokens;
    std::vector<int32_t> pages(free_.end() - count, free_.end());
    free_.resize(free_.size() - count);
    return pages;
  }
  KvLayer layer;

 private:
  std::vector<uint8_t> keys_, values_;
  std::vector<int32_t> free_;
};

// Part of a sequence that one call computes.
struct Piece {
  const Sequence* sequence;
  int first, rows;
  const std::vector<int32_t>* pages;
};

std::vector<float> Sinks(const Shape& shape) {
  std::vector<float> sinks(shape.n_heads);
  for (int head = 0; head < shape.n_heads; ++head) sinks[head] = 0.5f * head - 1.0f;
  return sinks;
}

// Writes the pieces' keys and values and computes their attention, padding every row and
// surrounding everything with NaN. Returns the rows (n, n_heads * v_dim), piece after piece.
std::vector<float> Compute(const Shape& shape, const std::vector<Piece>& pieces, Cache& cache,
                           AttentionWorkspace& workspace, ThreadPool& pool) {
  const size_t q_row = static_cast<size_t>(shape.n_heads) * shape.k_dim, q_stride = q_row + 5;
  const size_t k_row = static_cast<size_t>(shape.n_kv_heads) * shape.k_dim, k_stride = k_row + 1;
  const size_t v_row = static_cast<size_t>(shape.n_kv_heads) * shape.v_dim, v_stride = v_row + 2;
  const size_t out_row = static_cast<size_t>(shape.n_heads) * shape.v_dim, out_stride = out_row + 3;
  std::vector<SequenceRows> batch;
  size_t n = 1;  // row 0 belongs to nobody
  for (const Piece& piece : pieces) {
    batch.push_back({n, piece.rows, piece.first, piece.pages->data()});
    n += piece.rows;
  }
  std::vector<float> q(n * q_stride, NAN), k(n * k_stride, NAN), v(n * v_stride, NAN);
  std::vector<float> padded(n * out_stride, NAN);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Sequence& s = *pieces[i].sequence;
    for (int row = 0; row < pieces[i].rows; ++row) {
      const size_t from = pieces[i].first + row, to = batch[i].first_row + row;
      std::copy_n(&s.q[from * q_row], q_row, &q[to * q_stride]);
      std::copy_n(&s.k[from * k_row], k_row, &k[to * k_stride]);
      std::copy_n(&s.v[from * v_row], v_row, &v[to * v_stride]);
    }
  }
  const std::vector<float> sinks = Sinks(shape);
  const AttentionOptions options = {shape.n_heads, 0.125f, shape.window, shape.softcap,
                                    shape.sinks ? sinks.data() : nullptr};
  WriteKv(k.data(), k_stride, shape.values_in_keys ? nullptr : v.data(), v_stride, batch,
          cache.layer, pool);
  Attention(q.data(), q_stride, batch, cache.layer, options, padded.data(), out_stride, workspace,
            pool);
  std::vector<float> out;
  for (size_t row = 0; row < n; ++row) {
    const auto begin = padded.begin() + row * out_stride;
    const auto written = row == 0 ? begin : begin + out_row;
    if (row > 0) out.insert(out.end(), begin, begin + out_row);
    for (auto it = written; it != begin + out_stride; ++it) EXPECT_TRUE(std::isnan(*it));
  }
  return out;
}

// The definition, in double, of one row and head.
std::vector<double> Reference(const Shape& shape, const Sequence& s, int position, int head) {
  const int kv_head = head / (shape.n_heads / shape.n_kv_heads);
  const int first = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
  std::vector<double> scores;
  for (int key = first; key <= position; ++key) {
    double score = 0;
    for (int i = 0; i < shape.k_dim; ++i) {
      score += static_cast<double>(
                   s.q[(static_cast<size_t>(position) * shape.n_heads + head) * shape.k_dim + i]) *
               s.k[(static_cast<size_t>(key) * shape.n_kv_heads + kv_head) * shape.k_dim + i];
    }
    score *= 0.125;
    if (shape.softcap > 0) score = shape.softcap * std::tanh(score / shape.softcap);
    scores.push_back(score);
  }
  double largest = *std::max_element(scores.begin(), scores.end());
  if (shape.sinks) largest = std::max<double>(largest, Sinks(shape)[head]);
  double sum = shape.sinks ? std::exp(Sinks(shape)[head] - largest) : 0;
  std::vector<double> out(shape.v_dim);
  for (int key = first; key <= position; ++key) {
    const double p = std::exp(scores[key - first] - largest);
    sum += p;
    for (int i = 0; i < shape.v_dim; ++i) {
      out[i] += p * s.v[(static_cast<size_t>(key) * shape.n_kv_heads + kv_head) * shape.v_dim + i];
    }
  }
  for (double& x : out) x /= sum;
  return out;
}

void ExpectNearReference(const Shape& shape, const Sequence& s, const std::vector<float>& out) {
  double worst = 0;
  // Every row near the borders of pages and splits, some of the others.
  for (int position = 0; position < s.tokens; ++position) {
    if (position > 70 && position % kSplitTokens > 2 && position % 37 != 0) continue;
    for (int head = 0; head < shape.n_heads; ++head) {
      const std::vector<double> expected = Reference(shape, s, position, head);
      for (int i = 0; i < shape.v_dim; ++i) {
        const size_t index =
            (static_cast<size_t>(position) * shape.n_heads + head) * shape.v_dim + i;
        const double error = std::abs(out[index] - expected[i]);
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      }
    }
  }
  // Scores are up to about 30 in magnitude, so 3e-6 in absolute error; values up to 2.
  EXPECT_LE(worst, 1e-5);
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<Shape> Shapes() {
  return {
      {.n_heads = 4, .n_kv_heads = 2, .k_dim = 64, .v_dim = 64},
      {.n_heads = 3, .n_kv_heads = 3, .k_dim = 128, .v_dim = 128, .window = 40},
      {.n_heads = 6, .n_kv_heads = 2, .k_dim = 72, .v_dim = 37},
      {.n_heads = 5, .n_kv_heads = 1, .k_dim = 64, .v_dim = 80, .type = KvType::kFloat16},
      {.n_heads = 7,
       .n_kv_heads = 1,
       .k_dim = 45,
       .v_dim = 19,
       .type = KvType::kFloat16,
       .window = 33,
       .sinks = true},
      {.n_heads = 8, .n_kv_heads = 1, .k_dim = 64, .v_dim = 64, .window = 1},
      {.n_heads = 2, .n_kv_heads = 2, .k_dim = 96, .v_dim = 64, .softcap = 5},
      {.n_heads = 8, .n_kv_heads = 2, .k_dim = 64, .v_dim = 64, .window = 128, .sinks = true},
      // More heads a group than a tile has rows.
      {.n_heads = 37, .n_kv_heads = 1, .k_dim = 16, .v_dim = 16},
      {.n_heads = 2, .n_kv_heads = 1, .k_dim = 576, .v_dim = 512},
      {.n_heads = 1, .n_kv_heads = 1, .k_dim = 3, .v_dim = 1},
      // Latent attention: in place, and with rows that must be padded or converted first.
      {.n_heads = 16, .n_kv_heads = 1, .k_dim = 576, .v_dim = 512, .values_in_keys = true},
      {.n_heads = 40, .n_kv_heads = 1, .k_dim = 48, .v_dim = 32, .values_in_keys = true},
      {.n_heads = 3, .n_kv_heads = 1, .k_dim = 45, .v_dim = 19, .values_in_keys = true},
      {.n_heads = 6,
       .n_kv_heads = 2,
       .k_dim = 50,
       .v_dim = 50,
       .type = KvType::kFloat16,
       .values_in_keys = true},
      {.n_heads = 5,
       .n_kv_heads = 1,
       .k_dim = 72,
       .v_dim = 33,
       .type = KvType::kFloat16,
       .values_in_keys = true},
  };
}

TEST(AttentionTest, AgreesWithTheDefinition) {
  ForEachSimdTarget([](const char* target) {
    for (const Shape& shape : Shapes()) {
      SCOPED_TRACE(target + (" " + Describe(shape)));
      const Sequence sequence(shape, 150, 1);
      Cache cache(shape, 8);
      const std::vector<int32_t> pages = cache.PagesFor(sequence.tokens);
      AttentionWorkspace workspace;
      ThreadPool pool(1);
      ExpectNearReference(
          shape, sequence,
          Compute(shape, {{&sequence, 0, sequence.tokens, &pages}}, cache, workspace, pool));
    }
  });
}

// Computes three sequences in batches that mix pieces of them, with cuts that fall on and beside
// the borders of pages and tiles.
std::vector<std::vector<float>> ComputeInPieces(const Shape& shape,
                                                const std::vector<Sequence>& sequences,
                                                ThreadPool& pool) {
  Cache cache(shape, 80);
  AttentionWorkspace workspace;
  std::vector<std::vector<int32_t>> pages;
  for (const Sequence& sequence : sequences) pages.push_back(cache.PagesFor(sequence.tokens));
  std::vector<std::vector<float>> out(sequences.size());
  std::vector<int> done(sequences.size(), 0);
  const int cuts[] = {1, 31, 1, 2, 64, 33, 7, 1, 300, 5};
  for (int step = 0;; ++step) {
    std::vector<Piece> pieces;
    std::vector<size_t> owners;
    // Every third step leaves a sequence out.
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int left = sequences[i].tokens - done[i];
      if (left == 0 || (step % 3 == 2 && i == 1)) continue;
      const int rows = std::min(left, cuts[(step + 3 * i) % std::size(cuts)]);
      pieces.push_back({&sequences[i], done[i], rows, &pages[i]});
      owners.push_back(i);
      done[i] += rows;
    }
    if (pieces.empty() && step % 3 != 2) return out;
    std::reverse(pieces.begin(), pieces.end());
    std::reverse(owners.begin(), owners.end());
    const std::vector<float> rows = Compute(shape, pieces, cache, workspace, pool);
    size_t row = 0;
    const size_t row_size = static_cast<size_t>(shape.n_heads) * shape.v_dim;
    for (size_t i = 0; i < pieces.size(); ++i) {
      out[owners[i]].insert(out[owners[i]].end(), rows.begin() + row * row_size,
                            rows.begin() + (row + pieces[i].rows) * row_size);
      row += pieces[i].rows;
    }
  }
}

TEST(AttentionTest, IsBitIdenticalInPiecesBatchesAndThreads) {
  ForEachSimdTarget([](const char* target) {
    for (const Shape& shape : Shapes()) {
      if (shape.k_dim > 200) continue;  // nothing new, and slow
      SCOPED_TRACE(target + (" " + Describe(shape)));
      std::vector<Sequence> sequences;
      sequences.emplace_back(shape, 1100, 1);
      sequences.emplace_back(shape, 70, 2);
      sequences.emplace_back(shape, 513, 3);
      ThreadPool one(1), three(3);
      const auto in_pieces = ComputeInPieces(shape, sequences, one);
      const auto with_threads = ComputeInPieces(shape, sequences, three);
      for (size_t i = 0; i < sequences.size(); ++i) {
        Cache cache(shape, 40);
        const std::vector<int32_t> pages = cache.PagesFor(sequences[i].tokens);
        AttentionWorkspace workspace;
        const auto whole = Compute(shape, {{&sequences[i], 0, sequences[i].tokens, &pages}}, cache,
                                   workspace, three);
        EXPECT_TRUE(SameBits(whole, in_pieces[i])) << "sequence " << i;
        EXPECT_TRUE(SameBits(whole, with_threads[i])) << "sequence " << i;
        if (i == 0) ExpectNearReference(shape, sequences[i], whole);
      }
    }
  });
}

TEST(AttentionTest, DecodeOfALongSequenceIsSharedByThreadsWithTheSameResult) {
  const Shape shape = {.n_heads = 2, .n_kv_heads = 1, .k_dim = 16, .v_dim = 11};
  const Sequence sequence(shape, 9000, 1);
  ForEachSimdTarget([&](const char* target) {
    SCOPED_TRACE(target);
    std::vector<std::vector<float>> results;
    for (int threads : {1, 2, 5}) {  // with 2, the splits take two rounds
      Cache cache(shape, 300);
      const std::vector<int32_t> pages = cache.PagesFor(sequence.tokens);
      AttentionWorkspace workspace;
      ThreadPool pool(threads);
      const int last = sequence.tokens - 1;
      auto whole = Compute(shape, {{&sequence, 0, last, &pages}}, cache, workspace, pool);
      auto decoded = Compute(shape, {{&sequence, last, 1, &pages}}, cache, workspace, pool);
      whole.insert(whole.end(), decoded.begin(), decoded.end());
      results.push_back(std::move(whole));
    }
    EXPECT_TRUE(SameBits(results[0], results[1]));
    EXPECT_TRUE(SameBits(results[0], results[2]));
    for (int head = 0; head < shape.n_heads; ++head) {
      const std::vector<double> expected = Reference(shape, sequence, sequence.tokens - 1, head);
      for (int i = 0; i < shape.v_dim; ++i) {
        const size_t row = static_cast<size_t>(sequence.tokens - 1) * shape.n_heads + head;
        EXPECT_NEAR(results[0][row * shape.v_dim + i], expected[i], 1e-5);
      }
    }
  });
}

TEST(AttentionTest, PagesBeforeTheWindowAreNotRead) {
  const Shape shape = {.n_heads = 2, .n_kv_heads = 1, .k_dim = 64, .v_dim = 64, .window = 64};
  const Sequence sequence(shape, 200, 1);
  Cache cache(shape, 10);
  std::vector<int32_t> pages = cache.PagesFor(sequence.tokens);
  AttentionWorkspace workspace;
  ThreadPool pool(2);
  const auto whole =
      Compute(shape, {{&sequence, 0, sequence.tokens, &pages}}, cache, workspace, pool);
  // The row at 160 sees 97 and later; page 2 ends with 95. Page 0 of the cache is all NaN.
  pages[0] = pages[1] = pages[2] = 0;
  const auto last = Compute(shape, {{&sequence, 160, 40, &pages}}, cache, workspace, pool);
  EXPECT_TRUE(SameBits(last, {whole.end() - last.size(), whole.end()}));
}

TEST(AttentionTest, NanOfALaterTokenDoesNotReachEarlierOnes) {
  const Shape shape = {.n_heads = 2, .n_kv_heads = 1, .k_dim = 64, .v_dim = 64};
  Sequence sequence(shape, 20, 1);
  Cache cache(shape, 2);
  const std::vector<int32_t> pages = cache.PagesFor(sequence.tokens);
  AttentionWorkspace workspace;
  ThreadPool pool(1);
  const auto healthy = Compute(shape, {{&sequence, 0, 20, &pages}}, cache, workspace, pool);
  std::fill_n(&sequence.k[10 * 64], 64, NAN);
  std::fill_n(&sequence.v[10 * 64], 64, NAN);
  const auto poisoned = Compute(shape, {{&sequence, 0, 20, &pages}}, cache, workspace, pool);
  const size_t before = 10 * 2 * 64;
  EXPECT_EQ(std::memcmp(healthy.data(), poisoned.data(), before * sizeof(float)), 0);
  for (size_t i = before; i < poisoned.size(); ++i) EXPECT_TRUE(std::isnan(poisoned[i]));
}

}  // namespace
}  // namespace gguf_offload
