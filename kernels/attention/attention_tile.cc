#include "kernels/attention/attention_tile.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_tile.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"
#include "kernels/attention/attention_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A head's keys or values in a page as float32 rows of Padded(dim): in place, or the first `used`
// rows converted to `scratch`.
const float* PageRows(KvType type, const uint8_t* page, int dim, int used, float* scratch) {
  const Floats d;
  const size_t padded = Padded(dim);
  const size_t size = static_cast<size_t>(dim);
  if (type == KvType::kFloat32) {
    if (padded == size) return reinterpret_cast<const float*>(page);
    for (int row = 0; row < used; ++row) {
      std::memcpy(scratch + row * padded, page + row * size * sizeof(float), size * sizeof(float));
      std::fill(scratch + row * padded + size, scratch + (row + 1) * padded, 0.0f);
    }
    return scratch;
  }
  const hn::Rebind<hwy::float16_t, Floats> d16;
  for (int row = 0; row < used; ++row) {
    const auto* from = reinterpret_cast<const hwy::float16_t*>(page) + row * size;
    float* to = scratch + row * padded;
    size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, from + i)), d, to + i);
    }
    if (i == padded) continue;
    HWY_ALIGN hwy::float16_t rest[kPad] = {};
    std::memcpy(rest, from + i, (size - i) * sizeof(hwy::float16_t));
    for (size_t j = 0; i < padded; i += kLanes, j += kLanes) {
      hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, rest + j)), d, to + i);
    }
  }
  return scratch;
}

// Tokens [token, next) of the tile see the same keys [begin, end) of a page.
struct TokenRun {
  int next;
  int begin;
  int end;
};

TokenRun RunAt(const AttentionTile& tile, int window, int page_start, int token) {
  const auto keys_of = [&](int t) {
    const Positions seen = VisiblePositions(tile.first_position + t, 1, window);
    return Positions{std::max(0, seen.begin - page_start),
                     std::min(kPageTokens, seen.end - page_start)};
  };
  const Positions keys = keys_of(token);
  int next = token + 1;
  for (; next < tile.tokens; ++next) {
    const Positions other = keys_of(next);
    if (other.begin != keys.begin || other.end != keys.end) break;
  }
  return {next, keys.begin, keys.end};
}

// What the tile reads next; asked for early, because the processor's prefetchers give up at the end
// of each page, and with few rows a page takes less time than the memory.
struct NextPage {
  const uint8_t* keys = nullptr;
  const uint8_t* values = nullptr;
  size_t key_bytes = 0;  // both multiples of kPageTokens
  size_t value_bytes = 0;

  // Asks for the part that belongs to kBlock keys.
  HWY_INLINE void Prefetch(int key) const {
    PrefetchBytes(keys + key * (key_bytes / kPageTokens), kBlock * (key_bytes / kPageTokens));
    PrefetchBytes(values + key * (value_bytes / kPageTokens), kBlock * (value_bytes / kPageTokens));
  }

  static HWY_INLINE void PrefetchBytes(const uint8_t* bytes, size_t count) {
    for (size_t i = 0; i < count; i += 64) __builtin_prefetch(bytes + i, 0, 2);
  }
};

// Adds keys [begin, end) of a page to the partial softmaxes of rows [row, row + rows).
void AttendRows(const AttentionOptions& options, const float* keys, size_t k_dim,
                const float* values, size_t value_stride, size_t v_dim, int begin, int end, int row,
                int rows, const TileScratch& scratch, const PartialSoftmax& partial,
                const NextPage* next) {
  float* scores = scratch.scores + row * kPageTokens;
  for (int key = begin / kBlock * kBlock; key < end; key += kBlock) {
    if (next != nullptr) next->Prefetch(key);
    ForEachRowBlock(
        rows, ScoreRows{scratch.queries + row * k_dim, keys + key * k_dim, k_dim, scores + key});
  }
  for (int r = 0; r < rows; ++r) {
    scratch.rescale[row + r] = SoftmaxPage(options, begin, end, scores + r * kPageTokens,
                                           partial.largest[row + r], partial.sums[row + r]);
  }
  float* weighted = partial.weighted + row * v_dim;
  const float* rescale = scratch.rescale + row;
  size_t v = 0;
  for (; v + kBlock * kLanes <= v_dim; v += kBlock * kLanes) {
    ForEachRowBlock(rows, WeighRows<kBlock>{scores, rescale, values + v, value_stride, begin, end,
                                            v_dim, weighted + v});
  }
  for (; v < v_dim; v += kLanes) {
    ForEachRowBlock(rows, WeighRows<1>{scores, rescale, values + v, value_stride, begin, end, v_dim,
                                       weighted + v});
  }
}

void AttendSplitSimd(const AttentionTile& tile, const KvLayer& layer,
                     const AttentionOptions& options, int split, const TileScratch& scratch,
                     const PartialSoftmax& partial) {
  const Positions visible = VisiblePositions(tile.first_position, tile.tokens, options.window);
  const int begin = std::max(visible.begin, split * kSplitTokens);
  const int end =
      visible.end - split * kSplitTokens < kSplitTokens ? visible.end : (split + 1) * kSplitTokens;
  const size_t k_dim = Padded(layer.k_dim), v_dim = Padded(layer.v_dim);
  const size_t value_stride = layer.values_in_keys ? k_dim : v_dim;
  for (int start = begin / kPageTokens * kPageTokens; start < end; start += kPageTokens) {
    const int32_t page = tile.pages[start / kPageTokens];
    const int used = std::min(kPageTokens, end - start);
    const float* keys =
        PageRows(layer.type, layer.Keys(page, tile.kv_head), layer.k_dim, used, scratch.keys);
    // What follows a value in its key gets a weighted sum like padding, which nobody reads.
    const float* values = layer.values_in_keys
                              ? keys
                              : PageRows(layer.type, layer.Values(page, tile.kv_head), layer.v_dim,
                                         used, scratch.values);
    NextPage next;
    if (visible.end - start > kPageTokens) {
      const int32_t next_page = tile.pages[start / kPageTokens + 1];
      next = {layer.Keys(next_page, tile.kv_head),
              layer.values_in_keys ? nullptr : layer.Values(next_page, tile.kv_head),
              layer.PageKeyBytes() / layer.n_kv_heads, layer.PageValueBytes() / layer.n_kv_heads};
    }
    for (int token = 0; token < tile.tokens;) {
      const TokenRun run = RunAt(tile, options.window, start, token);
      if (run.begin < run.end) {
        AttendRows(options, keys, k_dim, values, value_stride, v_dim, run.begin, run.end,
                   token * tile.heads, (run.next - token) * tile.heads, scratch, partial,
                   next.keys != nullptr && token == 0 ? &next : nullptr);
      }
      token = run.next;
    }
  }
}

// total[i] = total[i] * a + next[i] * b, i < v_dim (padded)
void MergeRow(const float* next, float b, size_t v_dim, float a, float* total) {
  const Floats d;
  for (size_t v = 0; v < v_dim; v += kLanes) {
    const auto older = hn::Mul(hn::LoadU(d, total + v), hn::Set(d, a));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, next + v), hn::Set(d, b), older), d, total + v);
  }
}

float Exp(float x) {
  const hn::CappedTag<float, 1> d1;
  return hn::GetLane(FastExp(d1, hn::Set(d1, x)));
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(AttendSplitSimd);
HWY_EXPORT(MergeRow);
HWY_EXPORT(Exp);

void PackQueries(const AttentionTile& tile, const KvLayer& layer, const TileScratch& scratch) {
  const size_t k_dim = layer.k_dim, padded = Padded(layer.k_dim);
  for (int row = 0; row < tile.rows(); ++row) {
    const float* from = tile.q + row / tile.heads * tile.q_stride + row % tile.heads * k_dim;
    float* to = scratch.queries + row * padded;
    std::copy(from, from + k_dim, to);
    std::fill(to + k_dim, to + padded, 0.0f);
  }
}

void ClearPartial(const AttentionTile& tile, const KvLayer& layer, const PartialSoftmax& total) {
  std::fill_n(total.largest, tile.rows(), -std::numeric_limits<float>::infinity());
  std::fill_n(total.sums, tile.rows(), 0.0f);
  std::fill_n(total.weighted, tile.rows() * Padded(layer.v_dim), 0.0f);
}

void AttendSplit(const AttentionTile& tile, const KvLayer& layer, const AttentionOptions& options,
                 int split, const TileScratch& scratch, const PartialSoftmax& partial) {
  ClearPartial(tile, layer, partial);
  HWY_DYNAMIC_DISPATCH(AttendSplitSimd)(tile, layer, options, split, scratch, partial);
}

void MergePartial(const AttentionTile& tile, const KvLayer& layer, const PartialSoftmax& next,
                  const PartialSoftmax& total) {
  const auto exp = HWY_DYNAMIC_DISPATCH(Exp);
  const auto merge_row = HWY_DYNAMIC_DISPATCH(MergeRow);
  const size_t v_dim = Padded(layer.v_dim);
  for (int row = 0; row < tile.rows(); ++row) {
    if (next.sums[row] == 0.0f) continue;  // the row sees none of these positions
    const float largest = std::max(total.largest[row], next.largest[row]);
    const float a = exp(total.largest[row] - largest);
    const float b = exp(next.largest[row] - largest);
    merge_row(next.weighted + row * v_dim, b, v_dim, a, total.weighted + row * v_dim);
    total.sums[row] = total.sums[row] * a + next.sums[row] * b;
    total.largest[row] = largest;
  }
}

void FinishTile(const AttentionTile& tile, const KvLayer& layer, const AttentionOptions& options,
                const PartialSoftmax& total) {
  const auto exp = HWY_DYNAMIC_DISPATCH(Exp);
  const size_t v_dim = layer.v_dim, padded = Padded(layer.v_dim);
  for (int row = 0; row < tile.rows(); ++row) {
    const int token = row / tile.heads, head = row % tile.heads;
    float sum = total.sums[row], scale = 1.0f;
    if (options.sinks != nullptr) {
      const float sink = options.sinks[tile.first_head + head];
      const float largest = std::max(total.largest[row], sink);
      scale = exp(total.largest[row] - largest);
      sum = sum * scale + exp(sink - largest);
    }
    const float* weighted = total.weighted + row * padded;
    float* out = tile.out + token * tile.out_stride + head * v_dim;
    const float normalize = scale / sum;
    for (size_t v = 0; v < v_dim; ++v) out[v] = weighted[v] * normalize;
  }
}

}  // namespace gguf_offload
#endif  // HWY_ONCE
