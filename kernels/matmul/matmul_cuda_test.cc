#include "kernels/matmul/matmul_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/matmul/matmul_workplace_for_test.h"
#include "kernels/matmul/paired_matvec_cuda.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

float RoundToHalf(float value) { return __half2float(__float2half_rn(value)); }

// What the half path multiplies, up to a power of two: weights as they are expanded.
std::vector<float> RoundWeights(const DeviceMatrix& matrix) {
  std::vector<float> out = matrix.values;
  if (matrix.type == TensorType::kF32) return out;
  for (float& value : out) value = RoundToHalf(std::clamp(value, -65504.0f, 65504.0f));
  return out;
}

class MatMulCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

class HalfPathTest : public MatMulCudaTest {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
    if (Cublas() == nullptr) GTEST_SKIP() << "no cuBLAS";
  }

  // Compares some of the n columns.
  static void ExpectProducts(const Outputs& all, const std::vector<float>& x, int64_t x_stride,
                             int n, const char* what) {
    for (size_t m = 0; m < all.outputs.size(); ++m) {
      const DeviceMatrix& matrix = all.matrices[m];
      const int64_t cols = matrix.cols, stride = all.outputs[m].y_stride;
      const bool half = matrix.type != TensorType::kF32;
      const std::vector<float> w = RoundWeights(matrix);
      const std::vector<float> y = all.ys[m]->ToHost();
      for (int i = 0; i < n; i += std::max(1, n / 7)) {
        std::vector<float> column(&x[i * x_stride], &x[i * x_stride] + cols);
        float largest = 0;
        for (float value : column) largest = std::max(largest, std::abs(value));
        const float scale = largest > 32768 ? std::exp2(std::floor(std::log2(largest)) - 14) : 1;
        for (float& value : column) value = half ? RoundToHalf(value / scale) * scale : value;
        for (int64_t r = 0; r < matrix.rows; ++r) {
          const ExactProduct exact = Multiply(&w[r * cols], column.data(), cols);
          const double expected = exact.product + all.bias_values[m][r];
          const float value = y[i * stride + r];
          // Tensor cores cut bits off when they add; negated, so that NaN fails.
          if (!(std::abs(value - expected) <= 1e-4 * exact.magnitude + 1e-6 * std::abs(expected))) {
            FAIL() << what << " " << matrix.name << " (" << matrix.rows << ", " << cols
                   << ") times " << n << ": row " << r << " column " << i << " is " << value
                   << ", not " << expected;
          }
        }
        for (int64_t r = matrix.rows; r < stride; ++r) {
          ASSERT_EQ(std::bit_cast<uint32_t>(y[i * stride + r]), 0xffffffffu) << what;
        }
      }
    }
  }
};

// In 8 bits and in half precision, of block formats and of plain numbers.
TEST_F(HalfPathTest, ScaleMultipliesTheProductAheadOfTheBias) {
  constexpr int64_t kCols = 256;
  const float scale = 0.375f;
  DeviceArray<float> device_scale(std::vector<float>{scale});
  for (const Precision precision : {Precision::kInt8, Precision::kHalf}) {
    Workplace place(Config(precision, 8, kCols));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    for (const TensorType type : {TensorType::kQ4_K, TensorType::kQ8_0, TensorType::kF32}) {
      for (const int n : {1, 5}) {
        const std::vector<float> x = MakeActivations(n, kCols, kCols, 3);
        DeviceArray<float> device_x(x);
        const DeviceMatrix matrix = MakeMatrix(type, 40, kCols, 4);
        const std::vector<float> bias = MakeActivations(1, 40, 40, 5);
        DeviceArray<float> device_bias(bias), plain(n * 40), scaled(n * 40);
        const MatMulOutput outputs[] = {
            {type, matrix.blocks->data(), 40, kCols, nullptr, plain.data(), 40},
            {type, matrix.blocks->data(), 40, kCols, device_bias.data(), scaled.data(), 40,
             device_scale.data()}};
        for (const MatMulOutput& output : outputs) {
          ASSERT_EQ(place.matmul->Run(device_x.data(), kCols, n, false, {&output, 1}, nullptr),
                    nullptr);
        }
        const std::vector<float> without = plain.ToHost(), with = scaled.ToHost();
        for (int i = 0; i < n * 40; ++i) {
          EXPECT_NEAR(with[i], without[i] * scale + bias[i % 40],
                      1e-5 * std::abs(without[i]) + 1e-6);
        }
      }
    }
  }
}

TEST_F(HalfPathTest, EveryTypeInParts) {
  constexpr int64_t kCols = 768, kStride = kCols + 16;
  for (int n : {1, 100, 512}) {
    Workplace place(Config(Precision::kHalf, n, kCols));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    std::vector<float> x = MakeActivations(n, kCols, kStride, n);
    x[5] = 1e6f;  // too much for half precision
    for (int64_t c = 0; c < kCols; ++c) x[(n - 1) * kStride + c] *= 1e5f;
    DeviceArray<float> device_x(x);
    Outputs all;
    for (TensorType type : TestedTypes()) {
      const int64_t rows = 60 + 13 * (all.matrices.size() % 10);
      all.Add(MakeMatrix(type, rows, kCols, n + rows, 8 * (all.matrices.size() % 2)), n,
              all.matrices.size() % 3 == 0);
    }
    ASSERT_EQ(place.matmul->Run(device_x.data(), kStride, n, false, all.outputs, nullptr), nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    ExpectProducts(all, x, kStride, n, "half");
  }
}

TEST_F(HalfPathTest, PlainTypesWithOddColumns) {
  for (int64_t cols : {172, 173}) {
    for (int n : {100, 513}) {
      Workplace place(Config(Precision::kInt8, n, cols));
      ASSERT_NE(place.matmul, nullptr) << place.error;
      const int64_t stride = cols + 3;
      const std::vector<float> x = MakeActivations(n, cols, stride, n);
      DeviceArray<float> device_x(x);
      Outputs all;
      for (TensorType type : {TensorType::kF16, TensorType::kF32, TensorType::kBF16}) {
        for (int64_t rows : {1, 7, 300}) {
          all.Add(MakeMatrix(type, rows, cols, n + rows, 8 * (rows % 2)), n, rows == 7);
        }
      }
      ASSERT_EQ(place.matmul->Run(device_x.data(), stride, n, false, all.outputs, nullptr),
                nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      ExpectProducts(all, x, stride, n, "plain");
    }
  }
}

TEST_F(HalfPathTest, TakesOverBeyondTheCrossover) {
  MatMulConfig config = Config(Precision::kInt8, 40, 512);
  config.crossover = 10;
  Workplace place(config);
  ASSERT_NE(place.matmul, nullptr) << place.error;
  EXPECT_TRUE(place.matmul->IsQuantized(10));
  EXPECT_FALSE(place.matmul->IsQuantized(11));
  EXPECT_NE(place.matmul->PrepareQuantized(10, 512).q, nullptr);
  EXPECT_EQ(place.matmul->PrepareQuantized(11, 512).q, nullptr);
  const std::vector<float> x = MakeActivations(11, 512, 512, 1);
  DeviceArray<float> device_x(x);
  Outputs all;
  all.Add(MakeMatrix(TensorType::kQ4_K, 33, 512, 1), 11, true);
  ASSERT_EQ(place.matmul->Run(device_x.data(), 512, 11, false, all.outputs, nullptr), nullptr);
  ExpectProducts(all, x, 512, 11, "crossover");
}

// Within what 8-bit activations cost, also when there is no cuBLAS for many columns.
TEST_F(MatMulCudaTest, EveryTypeInEightBits) {
  constexpr int64_t kCols = 1280, kStride = kCols + 16;
  for (const auto& [n, cublas] : {std::tuple{1, true}, {3, true}, {64, true}, {100, false}}) {
    MatMulConfig config = Config(Precision::kInt8, n, kCols);
    if (!cublas) config.cublas = nullptr;
    Workplace place(config);
    ASSERT_NE(place.matmul, nullptr) << place.error;
    const std::vector<float> x = MakeActivations(n, kCols, kStride, n);
    DeviceArray<float> device_x(x);
    // Twice, so that each type has neighbours and more than a launch takes.
    Outputs all;
    for (int round = 0; round < 5; ++round) {
      for (TensorType type : TestedTypes()) {
        if (round >= 2 && type != TensorType::kQ8_0 && type != TensorType::kF16) continue;
        const int64_t rows = 1 + 7 * all.matrices.size() % 40;
        all.Add(MakeMatrix(type, rows, kCols, n + rows, 8 * (all.matrices.size() % 2)), n,
                all.matrices.size() % 3 == 0);
      }
    }
    ASSERT_EQ(place.matmul->Run(device_x.data(), kStride, n, false, all.outputs, nullptr), nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    for (size_t m = 0; m < all.outputs.size(); ++m) {
      const DeviceMatrix& matrix = all.matrices[m];
      const std::vector<float> y = all.ys[m]->ToHost();
      for (int i = 0; i < n; ++i) {
        for (int64_t r = 0; r < matrix.rows; ++r) {
          const ExactProduct exact = Multiply(&matrix.values[r * kCols], &x[i * kStride], kCols);
          const double expected = exact.product + all.bias_values[m][r];
          const float value = y[i * all.outputs[m].y_stride + r];
          ASSERT_TRUE(std::abs(value - expected) <= 0.015 * exact.norms)
              << matrix.name << " times " << n << " row " << r << " column " << i << " is " << value
              << ", not " << expected;
        }
      }
    }
  }
}

TEST_F(MatMulCudaTest, TakesActivationsThatAreQuantizedAlready) {
  constexpr int64_t kCols = 512;
  constexpr int kColumns = 3;
  Workplace place(Config(Precision::kInt8, kColumns, 2 * kCols));
  ASSERT_NE(place.matmul, nullptr) << place.error;
  const std::vector<float> x = MakeActivations(kColumns, kCols, kCols, 1);
  DeviceArray<float> device_x(x);
  Outputs all;
  all.Add(MakeMatrix(TensorType::kQ6_K, 50, kCols, 1), kColumns, false);
  ASSERT_EQ(place.matmul->Run(device_x.data(), kCols, kColumns, false, all.outputs, nullptr),
            nullptr);
  const std::vector<float> first = all.ys[0]->ToHost();
  // Those of the last call are still there.
  ASSERT_EQ(cudaMemset(all.ys[0]->data(), 0xff, first.size() * sizeof(float)), cudaSuccess);
  ASSERT_EQ(place.matmul->Run(nullptr, 0, kColumns, true, all.outputs, nullptr), nullptr);
  EXPECT_EQ(all.ys[0]->ToHost(), first);
  const QuantizedRows rows = place.matmul->PrepareQuantized(kColumns, kCols);
  EXPECT_EQ(rows.columns, kCols);
  std::vector<int8_t> q(kColumns * kCols);
  ASSERT_EQ(cudaMemcpy(q.data(), rows.q, q.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(q, QuantizeOnHost(x, kColumns, kCols, kCols).q);
}

// Products of two types with the same input, in one launch, are those that each type gives alone.
TEST_F(MatMulCudaTest, TwoTypesAtOnce) {
  // Q6_K has pairs where its rows are whole turns and aligned.
  struct Case {
    int64_t cols;
    size_t misalignment;  // of Q6_K
  };
  for (const Case& c : {Case{4096, 0}, Case{2560, 0}, Case{4096, 8}}) {
    for (TensorType type : {TensorType::kQ4_K, TensorType::kQ5_K}) {
      Workplace place(Config(Precision::kInt8, 1, c.cols));
      ASSERT_NE(place.matmul, nullptr) << place.error;
      DeviceArray<float> x(MakeActivations(1, c.cols, c.cols, 5));
      Outputs first, second, both;
      for (Outputs* all : {&first, &both}) {
        all->Add(MakeMatrix(type, 77, c.cols, 1), 1, true);
        all->Add(MakeMatrix(type, 9, c.cols, 2), 1, false);
      }
      for (Outputs* all : {&second, &both}) {
        all->Add(MakeMatrix(TensorType::kQ6_K, 33, c.cols, 3, c.misalignment), 1, true);
      }
      for (Outputs* all : {&first, &second, &both}) {
        ASSERT_EQ(place.matmul->Run(x.data(), c.cols, 1, false, all->outputs, nullptr), nullptr);
      }
      const auto products = [](const Outputs& all, size_t i) {
        std::vector<float> values = all.ys[i]->ToHost();
        values.resize(all.matrices[i].rows);
        return values;
      };
      const auto expect_both = [&] {
        EXPECT_EQ(products(both, 0), products(first, 0));
        EXPECT_EQ(products(both, 1), products(first, 1));
        EXPECT_EQ(products(both, 2), products(second, 0));
      };
      expect_both();

      // And there is a kernel for both, in either order, whose launch alone writes all of them.
      std::vector<MatVecMatrix> matrices;
      for (const MatMulOutput& out : both.outputs) {
        matrices.push_back({out.weight, out.rows, out.bias, out.y, out.y_stride});
      }
      const std::span<const MatVecMatrix> all(matrices);
      for (bool swapped : {false, true}) {
        for (const MatMulOutput& out : both.outputs) {
          ASSERT_EQ(cudaMemset(out.y, 0xff, out.rows * sizeof(float)), cudaSuccess);
        }
        const QuantizedRows rows = place.matmul->PrepareQuantized(1, c.cols);
        const auto of_type = all.first(2), six = all.last(1);
        ASSERT_TRUE(
            swapped ? MixedMatVec(six, TensorType::kQ6_K, of_type, type, c.cols, rows, 1, nullptr)
                    : MixedMatVec(of_type, type, six, TensorType::kQ6_K, c.cols, rows, 1, nullptr));
        expect_both();
      }
    }
  }
}

// A captured graph multiplies what the activations have become.
TEST_F(MatMulCudaTest, CanBeCaptured) {
  constexpr int64_t kCols = 512;
  for (int n : {2, 100}) {
    Workplace place(Config(Precision::kInt8, n, kCols));
    ASSERT_NE(place.matmul, nullptr) << place.error;
    DeviceArray<float> x(n * kCols);
    Outputs all;
    for (TensorType type : {TensorType::kQ4_K, TensorType::kF16, TensorType::kF32}) {
      all.Add(MakeMatrix(type, 70, kCols, 1), n, true);
    }
    cudaStream_t stream;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    ASSERT_EQ(place.matmul->Run(x.data(), kCols, n, false, all.outputs, stream), nullptr);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    ASSERT_EQ(place.matmul->Run(x.data(), kCols, n, false, all.outputs, stream), nullptr);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (uint32_t seed : {1u, 2u}) {
      const std::vector<float> values = MakeActivations(n, kCols, kCols, seed);
      ASSERT_EQ(cudaMemcpy(x.data(), values.data(), values.size() * sizeof(float),
                           cudaMemcpyHostToDevice),
                cudaSuccess);
      ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      std::vector<std::vector<float>> by_graph;
      for (auto& y : all.ys) {
        by_graph.push_back(y->ToHost());
        ASSERT_EQ(cudaMemset(y->data(), 0xff, y->size() * sizeof(float)), cudaSuccess);
      }
      ASSERT_EQ(place.matmul->Run(x.data(), kCols, n, false, all.outputs, stream), nullptr);
      for (size_t m = 0; m < all.ys.size(); ++m) {
        const std::vector<float> y = all.ys[m]->ToHost();
        EXPECT_EQ(memcmp(y.data(), by_graph[m].data(), y.size() * sizeof(float)), 0)
            << all.matrices[m].name << " times " << n;
      }
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
}

TEST_F(MatMulCudaTest, SaysWhatIsWrong) {
  MatMulConfig config = Config(Precision::kHalf, 4, 512);
  config.cublas = nullptr;
  Workplace without(config);
  EXPECT_EQ(without.matmul, nullptr);
  EXPECT_NE(without.error, "");

  Workplace place(Config(Precision::kInt8, 4, 512));
  ASSERT_NE(place.matmul, nullptr) << place.error;
  DeviceArray<float> x(16 * 1024);
  Outputs all;
  all.Add(MakeMatrix(TensorType::kF16, 8, 512, 1), 4, false);
  EXPECT_NE(place.matmul->Run(nullptr, 0, 4, true, all.outputs, nullptr), nullptr);
  EXPECT_NE(place.matmul->Run(x.data(), 512, 5, false, all.outputs, nullptr), nullptr);
  MatMulOutput output = all.outputs[0];
  output.cols = 1024;
  EXPECT_NE(place.matmul->Run(x.data(), 1024, 1, false, {&output, 1}, nullptr), nullptr);
  output = all.outputs[0];
  output.type = TensorType::kI8;
  EXPECT_NE(place.matmul->Run(x.data(), 512, 1, false, {&output, 1}, nullptr), nullptr);
  EXPECT_EQ(place.matmul->Run(x.data(), 512, 0, false, all.outputs, nullptr), nullptr);
  EXPECT_EQ(place.matmul->Run(x.data(), 512, 4, false, {}, nullptr), nullptr);

  if (Cublas() != nullptr) {
    config = Config(Precision::kInt8, 4, 512);
    config.weight_scratch_bytes = 100;
    Workplace small(config);
    EXPECT_EQ(small.matmul, nullptr);
    EXPECT_NE(small.error, "");
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
