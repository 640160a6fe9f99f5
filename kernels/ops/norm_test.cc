#include "kernels/ops/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/ops/simd_targets_for_test.h"

namespace gguf_offload {
namespace {

constexpr float kEps = 1e-5f;
constexpr size_t kDims[] = {1, 3, 16, 64, 67, 128, 1000, 4099};

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

std::vector<double> Reference(const float* x, const float* weight, size_t dim) {
  double sum = 0;
  for (size_t i = 0; i < dim; ++i) sum += static_cast<double>(x[i]) * x[i];
  std::vector<double> out(dim);
  for (size_t i = 0; i < dim; ++i) {
    out[i] = x[i] / std::sqrt(sum / dim + kEps) * (weight ? weight[i] : 1.0);
  }
  return out;
}

void ExpectRow(const float* x, const float* weight, size_t dim, const float* out) {
  const std::vector<double> expected = Reference(x, weight, dim);
  for (size_t i = 0; i < dim; ++i) {
    ASSERT_LE(std::abs(out[i] - expected[i]), 1e-6 * std::abs(expected[i])) << i;
  }
}

TEST(RmsNormTest, AgreesWithTheDefinitionAndLeavesPaddingAlone) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    for (size_t dim : kDims) {
      for (bool weighted : {false, true}) {
        const size_t n = 5, x_stride = dim + 2, out_stride = dim + 3;
        const std::vector<float> x = Random(n * x_stride, 1), weights = Random(dim, 2);
        const float* weight = weighted ? weights.data() : nullptr;
        std::vector<float> out(n * out_stride, NAN);
        RmsNorm(x.data(), x_stride, weight, kEps, n, dim, out.data(), out_stride, pool);
        for (size_t row = 0; row < n; ++row) {
          ExpectRow(&x[row * x_stride], weight, dim, &out[row * out_stride]);
          for (size_t i = dim; i < out_stride; ++i) {
            EXPECT_TRUE(std::isnan(out[row * out_stride + i]));
          }
        }
        std::vector<float> in_place = x;
        RmsNorm(in_place.data(), x_stride, weight, kEps, n, dim, in_place.data(), x_stride, pool);
        for (size_t row = 0; row < n; ++row) {
          EXPECT_EQ(
              std::memcmp(&in_place[row * x_stride], &out[row * out_stride], dim * sizeof(float)),
              0);
        }
      }
    }
  });
}

TEST(RmsNormTest, IsBitIdenticalInAnyBatchAndWithAnyThreads) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    const size_t n = 70, dim = 2051;
    const std::vector<float> x = Random(n * dim, 1), weight = Random(dim, 2);
    ThreadPool one(1), three(3);
    std::vector<float> whole(n * dim, NAN), threaded(n * dim, NAN), rows(n * dim, NAN);
    RmsNorm(x.data(), dim, weight.data(), kEps, n, dim, whole.data(), dim, one);
    RmsNorm(x.data(), dim, weight.data(), kEps, n, dim, threaded.data(), dim, three);
    for (size_t row = 0; row < n; ++row) {
      RmsNorm(&x[row * dim], dim, weight.data(), kEps, 1, dim, &rows[row * dim], dim, three);
    }
    EXPECT_EQ(std::memcmp(whole.data(), threaded.data(), n * dim * sizeof(float)), 0);
    EXPECT_EQ(std::memcmp(whole.data(), rows.data(), n * dim * sizeof(float)), 0);
  });
}

TEST(RmsNormHeadsTest, NormalizesEachHeadOfAStridedTensor) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    const size_t n = 3, heads = 5, head_dim = 37, head_stride = 40;
    const size_t row_stride = heads * head_stride + 7;
    const std::vector<float> before = Random(n * row_stride, 3), weight = Random(head_dim, 4);
    std::vector<float> x = before, untouched = before;
    RmsNormHeads(x.data(), row_stride, head_stride, weight.data(), kEps, n, heads, head_dim, pool);
    for (size_t row = 0; row < n; ++row) {
      for (size_t head = 0; head < heads; ++head) {
        const size_t at = row * row_stride + head * head_stride;
        ExpectRow(&before[at], weight.data(), head_dim, &x[at]);
        std::memcpy(&untouched[at], &x[at], head_dim * sizeof(float));
      }
    }
    EXPECT_EQ(x, untouched);
  });
}

TEST(AddRmsNormTest, AddsThenNormalizes) {
  ForEachSimdTarget([](const char* target) {
    SCOPED_TRACE(target);
    ThreadPool pool(2);
    for (size_t dim : kDims) {
      const size_t n = 3;
      const std::vector<float> x = Random(n * dim, 5), weight = Random(dim, 6);
      const std::vector<float> before = Random(n * dim, 7);
      std::vector<float> residual = before, out(n * dim, NAN), in_place = x;
      AddRmsNorm(residual.data(), x.data(), weight.data(), kEps, n, dim, out.data(), pool);
      for (size_t i = 0; i < n * dim; ++i) ASSERT_EQ(residual[i], before[i] + x[i]);
      for (size_t row = 0; row < n; ++row) {
        ExpectRow(&residual[row * dim], weight.data(), dim, &out[row * dim]);
      }
      std::vector<float> again = before;
      AddRmsNorm(again.data(), in_place.data(), weight.data(), kEps, n, dim, in_place.data(), pool);
      EXPECT_EQ(in_place, out);
    }
  });
}

TEST(RmsNormTest, NanStaysInItsRow) {
  ThreadPool pool(1);
  std::vector<float> x = Random(2 * 33, 8), out(2 * 33, 0.0f);
  x[32] = NAN;
  RmsNorm(x.data(), 33, nullptr, kEps, 2, 33, out.data(), 33, pool);
  for (size_t i = 0; i < 33; ++i) EXPECT_TRUE(std::isnan(out[i]));
  for (size_t i = 33; i < 66; ++i) EXPECT_FALSE(std::isnan(out[i]));
}

}  // namespace
}  // namespace gguf_offload
