#include "kernels/matmul/weighted_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/weighted_rows.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(Floats()));
constexpr int kVectors = 4;
constexpr int kColumns = kVectors * kLanes;  // summed in registers
static_assert(64 % kColumns == 0);
// Accumulators of this many rows of y fit the registers, of which there are 32 with AVX-512.
constexpr int kMostRows = kLanes >= 16 ? 4 : 2;

template <int kRows>
HWY_INLINE void AddColumns(const float* HWY_RESTRICT rows, size_t count, size_t row_stride,
                           const float* HWY_RESTRICT factors, int64_t factor_stride,
                           size_t columns,  // 1 to kColumns
                           float* HWY_RESTRICT y, int64_t y_stride) {
  const Floats d;
  hn::Vec<Floats> sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(d);
  }
  for (size_t row = 0; row < count; ++row) {
    hn::Vec<Floats> weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      weights[v] = hn::Load(d, rows + row * row_stride + v * kLanes);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const auto factor = hn::Set(d, factors[i * factor_stride + row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(factor, weights[v], sums[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    HWY_ALIGN float sum[kColumns];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::Store(sums[i][v], d, sum + v * kLanes);
    std::memcpy(y + i * y_stride, sum, columns * sizeof(float));
  }
}

void AddWeightedRowsSimd(const float* rows, size_t count, size_t columns, const float* factors,
                         int64_t factor_stride, int n, float* y, int64_t y_stride) {
  const size_t row_stride = WeightedRowsPadded(columns);
  for (size_t column = 0; column < columns; column += kColumns) {
    const size_t width = std::min<size_t>(kColumns, columns - column);
    int i = 0;
    for (; n - i >= kMostRows; i += kMostRows) {
      AddColumns<kMostRows>(rows + column, count, row_stride, factors + i * factor_stride,
                            factor_stride, width, y + i * y_stride + column, y_stride);
    }
    for (; i < n; ++i) {
      AddColumns<1>(rows + column, count, row_stride, factors + i * factor_stride, factor_stride,
                    width, y + i * y_stride + column, y_stride);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(AddWeightedRowsSimd);

void AddWeightedRows(const float* rows, size_t count, size_t columns, const float* factors,
                     int64_t factor_stride, int n, float* y, int64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(AddWeightedRowsSimd)
  (rows, count, columns, factors, factor_stride, n, y, y_stride);
}

}  // namespace gguf_offload
#endif  // HWY_ONCE
