// The inner loops of attention, which keep a block of rows in registers: scores, the softmax of a
// page, and weighted values. For inclusion by SIMD sources (once a target, after hwy/highway.h).
//
// A row's arithmetic is the same whatever the rows beside it and their number (kRows) are.

#if defined(KERNELS_ATTENTION_ATTENTION_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KERNELS_ATTENTION_ATTENTION_BLOCKS_INL_H_
#undef KERNELS_ATTENTION_ATTENTION_BLOCKS_INL_H_
#else
#define KERNELS_ATTENTION_ATTENTION_BLOCKS_INL_H_
#endif

#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/attention/attention_tile.h"
#include "kernels/ops/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(Floats()));
static_assert(kPad % kLanes == 0 && kPageTokens % kLanes == 0);

// Register blocks: kMaxRows rows times four vectors of accumulators must fit the registers, of
// which there are 32 with AVX-512, else 16.
constexpr int kMaxRows = kLanes >= 16 ? 4 : 2;
constexpr int kBlock = 4;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// The sums of the lanes of four vectors: within blocks of four lanes first, then across blocks.
template <class V>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumsOfLanes(V a, V b, V c, V e) {
  const Floats d;
  const V ac = hn::Add(hn::InterleaveLower(d, a, c), hn::InterleaveUpper(d, a, c));
  const V be = hn::Add(hn::InterleaveLower(d, b, e), hn::InterleaveUpper(d, b, e));
  const V sums = hn::Add(hn::InterleaveLower(d, ac, be), hn::InterleaveUpper(d, ac, be));
  if constexpr (kLanes == 4) {
    return sums;
  } else {
    const hn::Half<Floats> d_half;
    const auto half = hn::Add(hn::LowerHalf(d_half, sums), hn::UpperHalf(d_half, sums));
    if constexpr (kLanes == 8) {
      return half;
    } else {
      const hn::Half<hn::Half<Floats>> d_quarter;
      return hn::Add(hn::LowerHalf(d_quarter, half), hn::UpperHalf(d_quarter, half));
    }
  }
}

// scores[r][0..4) = q[r] . keys[0..4), each summed over lanes in the order of k, then over the
// lanes: the same arithmetic for every kRows.
template <int kRows>
HWY_INLINE void ScoreBlock(const float* HWY_RESTRICT q,     // (kRows, k_dim)
                           const float* HWY_RESTRICT keys,  // (4, k_dim)
                           size_t k_dim,                    // padded
                           float* HWY_RESTRICT scores) {    // (kRows, kPageTokens)
  const Floats d;
  hn::Vec<Floats> sums[kRows][kBlock];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kBlock; ++i) sums[r][i] = hn::Zero(d);
  }
  for (size_t k = 0; k < k_dim; k += kLanes) {
    const auto k0 = hn::LoadU(d, keys + k);
    const auto k1 = hn::LoadU(d, keys + k_dim + k);
    const auto k2 = hn::LoadU(d, keys + 2 * k_dim + k);
    const auto k3 = hn::LoadU(d, keys + 3 * k_dim + k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const auto query = hn::LoadU(d, q + r * k_dim + k);
      sums[r][0] = hn::MulAdd(query, k0, sums[r][0]);
      sums[r][1] = hn::MulAdd(query, k1, sums[r][1]);
      sums[r][2] = hn::MulAdd(query, k2, sums[r][2]);
      sums[r][3] = hn::MulAdd(query, k3, sums[r][3]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    hn::StoreU(SumsOfLanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]),
               hn::CappedTag<float, 4>(), scores + r * kPageTokens);
  }
}

// weighted[r] = weighted[r] * rescale[r] + sum over keys [begin, end) of scores[r][key] *
// values[key], for kVectors vectors of v_dim.
template <int kRows, int kVectors>
HWY_INLINE void WeighBlock(const float* HWY_RESTRICT scores,   // (kRows, kPageTokens)
                           const float* HWY_RESTRICT rescale,  // (kRows)
                           const float* HWY_RESTRICT values,   // (kPageTokens, v_dim)
                           size_t value_stride,                // from one key's to the next's
                           int begin, int end,
                           size_t v_dim,                    // padded
                           float* HWY_RESTRICT weighted) {  // (kRows, v_dim)
  const Floats d;
  hn::Vec<Floats> sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = hn::Mul(hn::LoadU(d, weighted + r * v_dim + i * kLanes), hn::Set(d, rescale[r]));
    }
  }
  for (int key = begin; key < end; ++key) {
    hn::Vec<Floats> value[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      value[i] = hn::LoadU(d, values + key * value_stride + i * kLanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const auto score = hn::Set(d, scores[r * kPageTokens + key]);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) sums[r][i] = hn::MulAdd(score, value[i], sums[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      hn::StoreU(sums[r][i], d, weighted + r * v_dim + i * kLanes);
    }
  }
}

// Calls block.template operator()<kRows>(row) for rows [0, rows), up to kMaxRows at a time.
template <class Block>
HWY_INLINE void ForEachRowBlock(int rows, const Block& block) {
  int row = 0;
  for (; row + kMaxRows <= rows; row += kMaxRows) block.template Run<kMaxRows>(row);
  if constexpr (kMaxRows == 4) {
    if (rows - row >= 2) {
      block.template Run<2>(row);
      row += 2;
    }
  }
  if (row < rows) block.template Run<1>(row);
}

struct ScoreRows {
  const float* q;     // (rows, k_dim)
  const float* keys;  // (4, k_dim)
  size_t k_dim;
  float* scores;  // (rows, kPageTokens), at the first of the four keys

  template <int kRows>
  HWY_INLINE void Run(int row) const {
    ScoreBlock<kRows>(q + row * k_dim, keys, k_dim, scores + row * kPageTokens);
  }
};

template <int kVectors>
struct WeighRows {
  const float* scores;   // (rows, kPageTokens)
  const float* rescale;  // (rows)
  const float* values;   // (kPageTokens, v_dim), at the first of the vectors
  size_t value_stride;   // from one key's to the next's
  int begin, end;        // keys
  size_t v_dim;
  float* weighted;  // (rows, v_dim), at the first of the vectors

  template <int kRows>
  HWY_INLINE void Run(int row) const {
    WeighBlock<kRows, kVectors>(scores + row * kPageTokens, rescale + row, values, value_stride,
                                begin, end, v_dim, weighted + row * v_dim);
  }
};

// Turns a row of products q . k into e^(score - largest) in place, 0 outside of [begin, end), and
// brings the row's largest score and sum up to date. Returns by what the row's older terms must be
// multiplied.
HWY_INLINE float SoftmaxPage(const AttentionOptions& options, int begin, int end,
                             float* HWY_RESTRICT scores,  // (kPageTokens)
                             float& largest, float& sum) {
  const Floats d;
  constexpr int kVectors = kPageTokens / kLanes;
  const auto minus_infinity = hn::Set(d, kMinusInfinity);
  hn::Vec<Floats> score[kVectors];
  auto lane_largest = minus_infinity;
  const auto scale = hn::Set(d, options.scale);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) score[i] = hn::Mul(hn::LoadU(d, scores + i * kLanes), scale);
  if (options.softcap > 0) {
    const auto cap = hn::Set(d, options.softcap);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      score[i] = hn::Mul(hn::CallTanh(d, hn::Div(score[i], cap)), cap);
    }
  }
  if (begin != 0 || end != kPageTokens) {
    const auto first = hn::Set(d, static_cast<float>(begin));
    const auto last = hn::Set(d, static_cast<float>(end));
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      const auto key = hn::Iota(d, static_cast<float>(i * kLanes));
      const auto seen = hn::And(hn::Ge(key, first), hn::Lt(key, last));
      score[i] = hn::IfThenElse(seen, score[i], minus_infinity);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) lane_largest = hn::Max(lane_largest, score[i]);
  const float old_largest = largest;
  const float page_largest = hn::GetLane(hn::MaxOfLanes(d, lane_largest));
  largest = page_largest > old_largest ? page_largest : old_largest;

  const auto largests = hn::Set(d, largest);
  auto sums = hn::Zero(d);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const auto e = FastExp(d, hn::Sub(score[i], largests));
    hn::StoreU(e, d, scores + i * kLanes);
    sums = hn::Add(sums, e);
  }
  float rescale = 1.0f;
  if (largest != old_largest) {
    const hn::CappedTag<float, 1> d1;
    rescale = hn::GetLane(FastExp(d1, hn::Set(d1, old_largest - largest)));
  }
  sum = sum * rescale + hn::GetLane(hn::SumOfLanes(d, sums));
  return rescale;
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#endif  // KERNELS_ATTENTION_ATTENTION_BLOCKS_INL_H_
