#include "kernels/ops/latent_rope_cuda.h"

#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.1f, 1.5f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

class LatentRopeCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

struct Shape {
  int heads, plain_dim, latent_dim, rope_dim, pairs;
  RopeStyle style;
};

constexpr int kRows = 5, kPages = 6;
const std::vector<int32_t> kPositions = {0, 33, -1, 64, 31};
const std::vector<int32_t> kRowPages = {0, 1, 0, 3, 0};
const std::vector<int32_t> kPageTable = {4, 2, 0, 1, 3, 5};

// Row `row`'s elements from `from` on, rotated.
std::vector<double> Rotated(const Shape& shape, const std::vector<float2>& angles, int row,
                            const float* from) {
  std::vector<double> to(from, from + shape.rope_dim);
  for (int pair = 0; pair < shape.pairs; ++pair) {
    const bool neox = shape.style == RopeStyle::kNeox;
    const int a = neox ? pair : 2 * pair, b = neox ? pair + shape.pairs : 2 * pair + 1;
    const float2 angle = angles[row * shape.pairs + pair];
    to[a] = double{from[a]} * angle.x - double{from[b]} * angle.y;
    to[b] = double{from[a]} * angle.y + double{from[b]} * angle.x;
  }
  return to;
}

TEST_F(LatentRopeCudaTest, RotatesAndStores) {
  for (const Shape& shape :
       {Shape{128, 128, 512, 64, 32, RopeStyle::kNormal}, Shape{3, 8, 40, 10, 5, RopeStyle::kNeox},
        Shape{1, 2, 16, 12, 4, RopeStyle::kNormal}}) {
    SCOPED_TRACE(shape.heads);
    const int key_dim = shape.latent_dim + shape.rope_dim;
    const int64_t q_head = shape.plain_dim + shape.rope_dim, q_stride = shape.heads * q_head + 16;
    const int64_t out_stride = shape.heads * key_dim + 16, key_stride = key_dim + 16;
    const std::vector<float> q = Random(kRows * q_stride, 1), key = Random(kRows * key_stride, 2);
    std::vector<float2> angles;
    for (int i = 0; i < kRows * shape.pairs; ++i) {
      angles.push_back(make_float2(std::cos(0.37f * i), std::sin(0.37f * i)));
    }
    DeviceArray<float> device_q(q), device_key(key), rotated(kRows * out_stride);
    DeviceArray<float2> device_angles(angles);
    DeviceArray<int32_t> positions(kPositions), row_pages(kRowPages), pages(kPageTable);
    DeviceArray<__half> keys(kPages * kPageTokens * key_dim);
    RotateAndStoreLatentKv({.q = device_q.data() + shape.plain_dim,
                            .q_stride = q_stride,
                            .q_head_stride = q_head,
                            .rotated = rotated.data() + shape.latent_dim,
                            .rotated_stride = out_stride,
                            .rotated_head_stride = key_dim,
                            .key = device_key.data(),
                            .key_stride = key_stride,
                            .rows = kRows,
                            .heads = shape.heads,
                            .rope_dim = shape.rope_dim,
                            .layer = {keys.data(), nullptr, 1, key_dim, shape.latent_dim},
                            .style = shape.style,
                            .pairs = shape.pairs,
                            .angles = device_angles.data(),
                            .positions = positions.data(),
                            .row_pages = row_pages.data(),
                            .pages = pages.data()},
                           nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> result = rotated.ToHost();
    const std::vector<__half> cache = keys.ToHost();
    size_t written = 0;
    for (int row = 0; row < kRows; ++row) {
      const bool skipped = kPositions[row] < 0;
      for (int head = 0; head < shape.heads; ++head) {
        const std::vector<double> expected =
            Rotated(shape, angles, row, &q[row * q_stride + head * q_head + shape.plain_dim]);
        for (int i = 0; i < key_dim; ++i) {
          const float value = result[row * out_stride + head * key_dim + i];
          if (skipped || i < shape.latent_dim) {
            ASSERT_EQ(std::bit_cast<uint32_t>(value), 0xffffffffu);
          } else {
            ASSERT_NEAR(value, expected[i - shape.latent_dim], 1e-5) << row << " " << head;
          }
        }
      }
      if (skipped) continue;
      const int page = kPageTable[kRowPages[row] + kPositions[row] / kPageTokens];
      const __half* stored = &cache[(page * kPageTokens + kPositions[row] % kPageTokens) * key_dim];
      const float* from = &key[row * key_stride];
      const std::vector<double> turned = Rotated(shape, angles, row, from + shape.latent_dim);
      for (int i = 0; i < key_dim; ++i) {
        const double expected = i < shape.latent_dim ? from[i] : turned[i - shape.latent_dim];
        ASSERT_NEAR(__half2float(stored[i]), expected, 6e-4 * std::abs(expected) + 1e-5);
      }
      written += key_dim;
    }
    size_t untouched = 0;
    for (__half value : cache) untouched += std::isnan(__half2float(value));
    EXPECT_EQ(untouched, cache.size() - written);
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
