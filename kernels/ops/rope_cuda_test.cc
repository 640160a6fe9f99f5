#include "kernels/ops/rope_cuda.h"

#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

constexpr float kEps = 1e-6f;

std::vector<float> Random(size_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.1f, 1.5f);
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

struct Shape {
  int heads, kv_heads, key_dim, value_dim, pairs;
  RopeStyle style;
  bool normalize, weighted;
};

const Shape kShapes[] = {
    {32, 8, 128, 128, 64, RopeStyle::kNeox, true, true},   // Qwen 3
    {14, 2, 64, 64, 32, RopeStyle::kNeox, false, false},   // Qwen 2.5
    {8, 2, 64, 64, 32, RopeStyle::kNormal, false, false},  // Llama
    {4, 4, 8, 8, 4, RopeStyle::kNormal, false, false},
    {2, 1, 16, 32, 4, RopeStyle::kNeox, true, true},  // partly rotated
    {3, 3, 96, 64, 20, RopeStyle::kNormal, true, false},
    {3, 1, 80, 80, 16, RopeStyle::kNeox, false, false},
    {2, 2, 256, 256, 128, RopeStyle::kNeox, true, true},
    {2, 1, 192, 128, 32, RopeStyle::kNormal, true, true},
    {1, 1, 6, 10, 3, RopeStyle::kNeox, true, true},
    {2, 1, 512, 256, 256, RopeStyle::kNormal, false, false},
    {4, 2, 64, 64, 0, RopeStyle::kNormal, true, true},  // no rotation
};

class RopeCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(RopeCudaTest, AnglesAreThoseOfDoublePrecision) {
  RopeParameters parameters;
  parameters.rope_dims = 128;
  parameters.freq_base = 1e6f;
  parameters.attn_factor = 1.25f;
  const RopeFrequencies frequencies(parameters);
  std::vector<double> radians(frequencies.pairs());
  for (int i = 0; i < frequencies.pairs(); ++i) radians[i] = frequencies.radians(i);
  const std::vector<int32_t> positions = {0, 1, 2, 77, 4095, 131071, 1000000, 2000000000};
  const int rows = static_cast<int>(positions.size());
  DeviceArray<double> device_radians(radians);
  DeviceArray<int32_t> device_positions(positions);
  DeviceArray<float2> angles(rows * frequencies.pairs() + 1);
  ComputeRopeAngles(device_radians.data(), frequencies.magnitude(), device_positions.data(), rows,
                    frequencies.pairs(), angles.data(), nullptr);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  ThreadPool pool(1);
  RopeAngles expected;
  expected.Compute(frequencies, positions.data(), positions.size(), pool);
  const std::vector<float2> result = angles.ToHost();
  for (int i = 0; i < rows * frequencies.pairs(); ++i) {
    ASSERT_LE(std::abs(result[i].x - expected.cosines()[i]), 2e-7f) << i;
    ASSERT_LE(std::abs(result[i].y - expected.sines()[i]), 2e-7f) << i;
  }
  EXPECT_TRUE(std::isnan(result.back().x));
}

// A batch of rows with shuffled pages, computed on both sides.
class Batch {
 public:
  static constexpr int kRows = 7, kPages = 12;

  explicit Batch(const Shape& shape) : shape_(shape) {
    q_stride_ = shape.heads * shape.key_dim + 16;
    k_stride_ = shape.kv_heads * shape.key_dim + 2;
    v_stride_ = shape.kv_heads * shape.value_dim + 4;
    q_ = Random(kRows * q_stride_, 1);
    k_ = Random(kRows * k_stride_, 2);
    v_ = Random(kRows * v_stride_, 3);
    q_norm_ = Random(shape.key_dim, 4);
    k_norm_ = Random(shape.key_dim, 5);
    for (int pair = 0; pair < shape.pairs; ++pair) radians_.push_back(std::pow(0.7, pair));
  }

  void RunAndCompare() {
    DeviceArray<float> q(q_), k(k_), v(v_), q_norm(q_norm_), k_norm(k_norm_);
    DeviceArray<double> radians(radians_);
    DeviceArray<int32_t> positions(positions_), row_pages(row_pages_), pages(pages_);
    DeviceArray<float2> angles(kRows * shape_.pairs + 1);
    const size_t key_slots = static_cast<size_t>(kPages) * shape_.kv_heads * kPageTokens;
    DeviceArray<__half> keys(key_slots * shape_.key_dim), values(key_slots * shape_.value_dim);
    ComputeRopeAngles(radians.data(), 1.0f, positions.data(), kRows, shape_.pairs, angles.data(),
                      nullptr);
    RotateAndStore arguments;
    arguments.q = q.data();
    arguments.q_stride = q_stride_;
    arguments.k = k.data();
    arguments.k_stride = k_stride_;
    arguments.v = v.data();
    arguments.v_stride = v_stride_;
    arguments.rows = kRows;
    arguments.heads = shape_.heads;
    arguments.layer = {keys.data(), values.data(), shape_.kv_heads, shape_.key_dim,
                       shape_.value_dim};
    arguments.normalize = shape_.normalize;
    arguments.q_norm = shape_.weighted ? q_norm.data() : nullptr;
    arguments.k_norm = shape_.weighted ? k_norm.data() : nullptr;
    arguments.eps = kEps;
    arguments.style = shape_.style;
    arguments.pairs = shape_.pairs;
    arguments.angles = angles.data();
    arguments.positions = positions.data();
    arguments.row_pages = row_pages.data();
    arguments.pages = pages.data();
    RotateAndStoreKv(arguments, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    CompareQueries(q.ToHost());
    CompareCache(keys.ToHost(), values.ToHost());
  }

 private:
  // The normalized and rotated head in double precision.
  std::vector<double> Expected(const float* head, const std::vector<float>& weight, int row) const {
    const int dim = shape_.key_dim, pairs = shape_.pairs;
    double sum = 0;
    for (int i = 0; i < dim; ++i) sum += static_cast<double>(head[i]) * head[i];
    std::vector<double> x(head, head + dim);
    for (int i = 0; i < dim && shape_.normalize; ++i) {
      x[i] *= (shape_.weighted ? weight[i] : 1.0) / std::sqrt(sum / dim + kEps);
    }
    for (int pair = 0; pair < pairs; ++pair) {
      const bool neox = shape_.style == RopeStyle::kNeox;
      double& a = x[neox ? pair : 2 * pair];
      double& b = x[neox ? pair + pairs : 2 * pair + 1];
      const double cosine = std::cos(positions_[row] * radians_[pair]);
      const double sine = std::sin(positions_[row] * radians_[pair]);
      const double turned = a * cosine - b * sine;
      b = a * sine + b * cosine;
      a = turned;
    }
    return x;
  }

  void CompareQueries(const std::vector<float>& q) const {
    for (int row = 0; row < kRows; ++row) {
      std::vector<float> before(q_.begin() + row * q_stride_, q_.begin() + (row + 1) * q_stride_);
      for (int head = 0; head < shape_.heads && positions_[row] >= 0; ++head) {
        float* from = &before[head * shape_.key_dim];
        const std::vector<double> expected = Expected(from, q_norm_, row);
        for (int i = 0; i < shape_.key_dim; ++i) {
          const double actual = q[row * q_stride_ + head * shape_.key_dim + i];
          ASSERT_LE(std::abs(actual - expected[i]), 1e-5) << row << " " << head << " " << i;
        }
      }
      const int first = positions_[row] >= 0 ? shape_.heads * shape_.key_dim : 0;
      for (int64_t i = first; i < q_stride_; ++i) ASSERT_EQ(q[row * q_stride_ + i], before[i]);
    }
  }

  void CompareCache(const std::vector<__half>& keys, const std::vector<__half>& values) const {
    std::vector<bool> written(kPages * kPageTokens);
    for (int row = 0; row < kRows; ++row) {
      if (positions_[row] < 0) continue;
      const int page = pages_[row_pages_[row] + positions_[row] / kPageTokens];
      const int slot = positions_[row] % kPageTokens;
      written[page * kPageTokens + slot] = true;
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const size_t at = (static_cast<size_t>(page) * shape_.kv_heads + head) * kPageTokens + slot;
        const std::vector<double> key =
            Expected(&k_[row * k_stride_ + head * shape_.key_dim], k_norm_, row);
        for (int i = 0; i < shape_.key_dim; ++i) {
          const double actual = __half2float(keys[at * shape_.key_dim + i]);
          ASSERT_LE(std::abs(actual - key[i]), 5e-4 * std::abs(key[i]) + 1e-5)
              << row << " " << head << " " << i;
        }
        for (int i = 0; i < shape_.value_dim; ++i) {
          const float v = v_[row * v_stride_ + head * shape_.value_dim + i];
          ASSERT_EQ(__half2float(values[at * shape_.value_dim + i]),
                    __half2float(__float2half_rn(v)))
              << row << " " << head << " " << i;
        }
      }
    }
    for (int page = 0; page < kPages; ++page) {
      for (int slot = 0; slot < kPageTokens; ++slot) {
        if (written[page * kPageTokens + slot]) continue;
        for (int head = 0; head < shape_.kv_heads; ++head) {
          const size_t at =
              (static_cast<size_t>(page) * shape_.kv_heads + head) * kPageTokens + slot;
          for (int i = 0; i < shape_.key_dim; ++i) {
            ASSERT_TRUE(std::isnan(__half2float(keys[at * shape_.key_dim + i])));
          }
          for (int i = 0; i < shape_.value_dim; ++i) {
            ASSERT_TRUE(std::isnan(__half2float(values[at * shape_.value_dim + i])));
          }
        }
      }
    }
  }

  Shape shape_;
  int64_t q_stride_, k_stride_, v_stride_;
  std::vector<float> q_, k_, v_, q_norm_, k_norm_;
  std::vector<double> radians_;
  // Three rows of a sequence whose pages begin at entry 2, a padding row, and others.
  const std::vector<int32_t> positions_ = {31, 32, 33, -1, 0, 100, 64};
  const std::vector<int32_t> row_pages_ = {2, 2, 2, 0, 6, 7, 0};
  const std::vector<int32_t> pages_ = {11, 10, 3, 7, -1, -1, 9, 0, 5, 4, 1};
};

TEST_F(RopeCudaTest, NormalizesRotatesAndStores) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.heads << "/" << shape.kv_heads << " " << shape.key_dim
                                    << " " << shape.value_dim << " " << shape.pairs);
    Batch(shape).RunAndCompare();
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
