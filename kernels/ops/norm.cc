#include "kernels/ops/norm.h"

#include <cmath>

#include "kernels/ops/row_chunks.h"
#include "kernels/ops/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ops/norm.cc"
#include "hwy/foreach_target.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace gguf_offload {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The sum of squares of x (dim): four vectors of partial sums, then the rest one by one.
float SumOfSquares(const float* x, size_t dim) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  size_t i = 0;
  for (; i + 4 * lanes <= dim; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    const auto x2 = hn::LoadU(d, x + i + 2 * lanes), x3 = hn::LoadU(d, x + i + 3 * lanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  for (; i + lanes <= dim; i += lanes) {
    const auto x0 = hn::LoadU(d, x + i);
    sum0 = hn::MulAdd(x0, x0, sum0);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; i < dim; ++i) sum += x[i] * x[i];
  return sum;
}

void RmsNormRow(const float* x, const float* weight, float eps, size_t dim, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const float scale = 1.0f / std::sqrt(SumOfSquares(x, dim) / static_cast<float>(dim) + eps);
  const auto scales = hn::Set(d, scale);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), scales);
    hn::StoreU(weight ? hn::Mul(scaled, hn::LoadU(d, weight + i)) : scaled, d, out + i);
  }
  for (; i < dim; ++i) out[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

void AddRmsNormRow(float* residual, const float* x, const float* weight, float eps, size_t dim,
                   float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, residual + i), hn::LoadU(d, x + i)), d, residual + i);
  }
  for (; i < dim; ++i) residual[i] += x[i];
  RmsNormRow(residual, weight, eps, dim, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace gguf_offload
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gguf_offload {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(AddRmsNormRow);

void RmsNorm(const float* x, size_t x_stride, const float* weight, float eps, size_t n, size_t dim,
             float* out, size_t out_stride, ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(RmsNormRow);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      row_function(x + row * x_stride, weight, eps, dim, out + row * out_stride);
    }
  });
}

void RmsNormHeads(float* x, size_t row_stride, size_t head_stride, const float* weight, float eps,
                  size_t n, size_t heads, size_t head_dim, ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(RmsNormRow);
  ForEachRowChunk(n, heads * head_dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      for (size_t head = 0; head < heads; ++head) {
        float* values = x + row * row_stride + head * head_stride;
        row_function(values, weight, eps, head_dim, values);
      }
    }
  });
}

void AddRmsNorm(float* residual, const float* x, const float* weight, float eps, size_t n,
                size_t dim, float* out, ThreadPool& pool) {
  const auto row_function = HWY_DYNAMIC_DISPATCH(AddRmsNormRow);
  ForEachRowChunk(n, dim, pool, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      row_function(residual + row * dim, x + row * dim, weight, eps, dim, out + row * dim);
    }
  });
}

}  // namespace gguf_offload
#endif  // HWY_ONCE
