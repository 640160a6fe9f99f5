// What a MatMul does with a product in one launch, and norms that it leaves to products.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/matmul/matmul_workplace_for_test.h"
#include "kernels/ops/activation_cuda.h"
#include "kernels/ops/norm_cuda.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

class MatMulFusedCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// What PrepareQuantized's memory holds.
struct EightBits {
  std::vector<int8_t> q;
  std::vector<float2> scale;

  explicit EightBits(const QuantizedRows& rows) : q(rows.columns), scale(rows.columns / 32) {
    CheckCuda(cudaMemcpy(q.data(), rows.q, q.size(), cudaMemcpyDeviceToHost));
    CheckCuda(cudaMemcpy(scale.data(), rows.scale, scale.size() * sizeof(float2),
                         cudaMemcpyDeviceToHost));
  }
  bool operator==(const EightBits& other) const {
    return q == other.q &&
           memcmp(scale.data(), other.scale.data(), scale.size() * sizeof(float2)) == 0;
  }
};

// A norm whose last step is left to the products gives what the whole norm gives, but for rounding;
// and with the product before it in the same launch, the bits of two launches.
TEST_F(MatMulFusedCudaTest, DeferredNorms) {
  struct Case {
    int64_t rows, cols;
    TensorType type;
    size_t misalignment;
    bool possible;
  };
  constexpr float kEps = 1e-5f;
  // Columns that one, two and four warps share.
  for (const Case& c :
       {Case{96, 512, TensorType::kQ4_K, 0, true}, Case{256, 2304, TensorType::kQ4_K, 0, true},
        Case{256, 8448, TensorType::kQ4_K, 0, true}, Case{96, 2048, TensorType::kQ6_K, 0, true},
        Case{256, 4096, TensorType::kQ6_K, 0, true}, Case{256, 8192, TensorType::kQ6_K, 0, true},
        Case{96, 512, TensorType::kQ6_K, 0, false}, Case{96, 2048, TensorType::kQ6_K, 8, false},
        Case{80, 512, TensorType::kQ4_K, 0, false}, Case{96, 512, TensorType::kQ4_K, 8, false}}) {
    SCOPED_TRACE(c.rows);
    Workplace place(Config(Precision::kInt8, 1, 8448));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    MatMul& matmul = *place.matmul;
    DeviceArray<float> x(MakeActivations(1, c.cols, c.cols, 5));
    const std::vector<float> residual = MakeActivations(1, c.rows, c.rows, 6);
    DeviceArray<float> norm(MakeActivations(1, c.rows, c.rows, 7));
    Outputs product;
    product.Add(MakeMatrix(c.type, c.rows, c.cols, 1, c.misalignment), 1, true);
    // Where all its blocks run at once.
    int multiprocessors = 0;
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
    const bool with_product = c.possible && c.rows / 32 <= multiprocessors;
    ASSERT_EQ(matmul.CanRunNormed(product.outputs[0]), with_product);
    ASSERT_EQ(matmul.CanDeferNorm(1, c.rows), c.rows % 32 == 0);
    if (c.rows % 32 != 0) continue;
    const bool whole_blocks = c.rows % 256 == 0;
    Outputs next;
    for (TensorType type : {TensorType::kQ4_K, TensorType::kQ6_K, TensorType::kQ8_0}) {
      if (type != TensorType::kQ8_0 && !whole_blocks) continue;
      next.Add(MakeMatrix(type, 40, c.rows, 2), 1, type == TensorType::kQ6_K);
    }
    Outputs gated;
    for (uint32_t seed : {3, 4}) {
      if (whole_blocks) gated.Add(MakeMatrix(TensorType::kQ4_K, 8448, c.rows, seed), 1, false);
    }

    enum { kWhole, kDeferred, kWithProduct };
    std::vector<std::vector<float>> results[3];
    std::vector<float> sums[3];
    std::vector<EightBits> norms;
    for (int way : {kWhole, kDeferred, kWithProduct}) {
      if (way == kWithProduct && !with_product) continue;
      DeviceArray<float> sum(residual), hidden(c.rows);
      const auto make = [&] {
        CheckCuda(cudaMemcpy(sum.data(), residual.data(), 4 * c.rows, cudaMemcpyHostToDevice));
        ASSERT_EQ(matmul.Run(x.data(), c.cols, 1, false, product.outputs, nullptr), nullptr);
        const MatMulOutput& of = product.outputs[0];
        if (way == kWhole) {
          AddRmsNorm(sum.data(), c.rows, of.y, c.rows, norm.data(), kEps, 1, c.rows, hidden.data(),
                     c.rows, matmul.PrepareQuantized(1, c.rows), nullptr);
        } else if (way == kDeferred) {
          matmul.RunDeferredNorm(sum.data(), c.rows, of.y, c.rows, 1, c.rows, norm.data(), kEps,
                                 nullptr);
        } else {
          matmul.RunNormed(of, sum.data(), norm.data(), kEps, nullptr);
        }
      };
      make();
      for (const MatMulOutput& output : next.outputs) {
        ASSERT_EQ(matmul.Run(nullptr, 0, 1, true, {&output, 1}, nullptr), nullptr);
      }
      for (const auto& y : next.ys) results[way].push_back(y->ToHost());
      // All of them at once.
      ASSERT_EQ(matmul.Run(nullptr, 0, 1, true, next.outputs, nullptr), nullptr);
      for (const auto& y : next.ys) results[way].push_back(y->ToHost());
      if (whole_blocks) {
        ASSERT_TRUE(matmul.RunGated(gated.outputs[0], gated.outputs[1], nullptr));
        results[way].push_back(gated.ys[0]->ToHost());
      }
      sums[way] = sum.ToHost();
      make();
      norms.emplace_back(matmul.PrepareQuantized(1, c.rows));
    }
    EXPECT_EQ(sums[kWhole], sums[kDeferred]);
    if (with_product) {
      EXPECT_EQ(sums[kDeferred], sums[kWithProduct]);
      EXPECT_TRUE(norms[kDeferred] == norms[kWithProduct]);
      for (size_t i = 0; i < results[kDeferred].size(); ++i) {
        EXPECT_EQ(memcmp(results[kDeferred][i].data(), results[kWithProduct][i].data(),
                         4 * results[kDeferred][i].size()),
                  0);
      }
    }
    for (size_t i = 0; i < results[kWhole].size(); ++i) {
      float largest = 0;
      for (float value : results[kWhole][i]) {
        if (!std::isnan(value)) largest = std::max(largest, std::abs(value));
      }
      ASSERT_GT(largest, 0);
      for (size_t r = 0; r < results[kWhole][i].size(); ++r) {
        const float expected = results[kWhole][i][r], value = results[kDeferred][i][r];
        if (std::isnan(expected)) continue;  // beyond the rows
        ASSERT_TRUE(std::abs(value - expected) <= 5e-3f * largest) << i << " " << r;
      }
    }
  }
}

// A row's norm and its products do not depend on the rows beside it.
TEST_F(MatMulFusedCudaTest, DeferredNormsOfSeveralRows) {
  constexpr float kEps = 1e-5f;
  constexpr int kMostRows = 17;
  for (int64_t cols : {32, 768, 9472}) {
    SCOPED_TRACE(cols);
    Workplace place(Config(Precision::kInt8, 64, cols));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    MatMul& matmul = *place.matmul;
    EXPECT_TRUE(matmul.CanDeferNorm(64, cols));
    EXPECT_FALSE(matmul.CanDeferNorm(65, cols));
    const int64_t stride = cols + 4, x_stride = cols + 12;
    const std::vector<float> residual = MakeActivations(kMostRows, cols, stride, 6);
    DeviceArray<float> x(MakeActivations(kMostRows, cols, x_stride, 5));
    DeviceArray<float> norm(MakeActivations(1, cols, cols, 7));
    for (bool add : {true, false}) {
      struct Result {
        std::vector<float> sums;
        std::vector<std::vector<float>> ys;
        std::vector<int64_t> strides;
      };
      const auto run = [&](int first, int n) {
        Outputs next;
        for (TensorType type : {TensorType::kQ4_K, TensorType::kQ6_K, TensorType::kQ8_0}) {
          if (type != TensorType::kQ8_0 && cols % 256 != 0) continue;
          next.Add(MakeMatrix(type, 40, cols, 2), n, type == TensorType::kQ6_K);
        }
        DeviceArray<float> sum(residual);
        matmul.RunDeferredNorm(sum.data() + first * stride, stride,
                               add ? x.data() + first * x_stride : nullptr, x_stride, n, cols,
                               norm.data(), kEps, nullptr);
        EXPECT_EQ(matmul.Run(nullptr, 0, n, true, next.outputs, nullptr), nullptr);
        Result result{sum.ToHost(), {}, {}};
        for (size_t i = 0; i < next.ys.size(); ++i) {
          result.ys.push_back(next.ys[i]->ToHost());
          result.strides.push_back(next.outputs[i].y_stride);
        }
        return result;
      };
      std::vector<Result> alone;
      for (int row = 0; row < kMostRows; ++row) alone.push_back(run(row, 1));
      for (int n : {2, 3, 8, kMostRows}) {
        SCOPED_TRACE(n);
        const Result all = run(0, n);
        for (int row = 0; row < n; ++row) {
          const auto same = [&](const std::vector<float>& a, int64_t from, const float* b,
                                int64_t count) {
            return memcmp(&a[from], b, count * sizeof(float)) == 0;
          };
          EXPECT_TRUE(same(all.sums, row * stride, &alone[row].sums[row * stride], cols)) << row;
          for (size_t i = 0; i < all.ys.size(); ++i) {
            EXPECT_TRUE(same(all.ys[i], row * all.strides[i], alone[row].ys[i].data(), 40))
                << row << " " << i;
          }
        }
      }
    }
  }
}

// A gated unit gives the bits of its parts, in floats and in 8 bits, or says that it cannot.
TEST_F(MatMulFusedCudaTest, GatedUnit) {
  struct Case {
    TensorType type;
    int64_t rows, cols;
    size_t misalignment;
    bool possible;
  };
  for (const Case& c :
       {Case{TensorType::kQ4_K, 96, 512, 0, true}, Case{TensorType::kQ5_K, 4128, 2304, 0, true},
        Case{TensorType::kQ4_K, 4128, 2304, 0, true},
        Case{TensorType::kQ4_K, 80, 512, 0, false},   // no whole groups
        Case{TensorType::kQ4_K, 96, 2304, 0, false},  // warps share rows
        Case{TensorType::kQ4_K, 96, 512, 8, false}, Case{TensorType::kQ6_K, 96, 512, 0, false},
        Case{TensorType::kQ6_K, 96, 2048, 0, true}, Case{TensorType::kQ6_K, 4128, 4096, 0, true},
        Case{TensorType::kQ6_K, 96, 2048, 8, false}}) {
    Workplace place(Config(Precision::kInt8, 1, std::max(c.rows, c.cols)));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    DeviceArray<float> x(MakeActivations(1, c.cols, c.cols, 5));
    Outputs parts, gated;
    for (Outputs* all : {&parts, &gated}) {
      for (uint32_t seed : {1, 2}) {
        all->Add(MakeMatrix(c.type, c.rows, c.cols, seed, c.misalignment), 1, false);
      }
    }
    ASSERT_EQ(place.matmul->Run(x.data(), c.cols, 1, false, parts.outputs, nullptr), nullptr);
    ASSERT_EQ(place.matmul->RunGated(gated.outputs[0], gated.outputs[1], nullptr), c.possible);
    if (!c.possible) continue;
    DeviceArray<float> expected(c.rows);
    DeviceArray<int8_t> q(c.rows);
    DeviceArray<float2> scale(c.rows / 32);
    const QuantizedRows expected_rows = {q.data(), scale.data(), c.rows};
    SwiGlu(parts.ys[0]->data(), c.rows, parts.ys[1]->data(), c.rows, 1, c.rows, expected.data(),
           c.rows, expected_rows, nullptr);
    EXPECT_EQ(gated.ys[0]->ToHost(), expected.ToHost());
    EXPECT_TRUE(EightBits(place.matmul->PrepareQuantized(1, c.rows)) == EightBits(expected_rows));
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
