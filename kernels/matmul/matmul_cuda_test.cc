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

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/paired_matvec_cuda.h"
#include "kernels/ops/activation_cuda.h"
#include "kernels/ops/norm_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

// The library that this machine has, or null.
const CublasLibrary* Cublas() {
  static const auto& library = *[] {
    std::string error;
    auto* loaded = new std::unique_ptr<CublasLibrary>(CublasLibrary::Load(error));
    if (*loaded == nullptr) printf("no cuBLAS: %s\n", error.c_str());
    return loaded;
  }();
  return library.get();
}

// A MatMul and its memory.
struct Workplace {
  explicit Workplace(const MatMulConfig& config)
      : memory(MatMul::WorkspaceBytes(config)),
        matmul(MatMul::Create(config, memory.data(), error)) {}

  DeviceArray<uint8_t> memory;
  std::string error;
  std::unique_ptr<MatMul> matmul;
};

MatMulConfig Config(Precision precision, int max_rows, int64_t max_cols) {
  MatMulConfig config;
  config.precision = precision;
  config.max_rows = max_rows;
  config.max_cols = max_cols;
  config.cublas = Cublas();
  // Weights go through in several parts.
  config.weight_scratch_bytes = HalfMatMul::LeastWeightBytes(max_cols) * 9;
  config.cublas_workspace_bytes = size_t{8} << 20;
  return config;
}

// Outputs of several matrices: their memory on the device.
struct Outputs {
  void Add(DeviceMatrix matrix, int n, bool biased) {
    const int64_t rows = matrix.rows, stride = rows + matrices.size() % 4;
    bias_values.push_back(biased ? MakeActivations(1, rows, rows, 77)
                                 : std::vector<float>(rows, 0.0f));
    biases.push_back(std::make_unique<DeviceArray<float>>(bias_values.back()));
    ys.push_back(std::make_unique<DeviceArray<float>>(n * stride));
    outputs.push_back({matrix.type, matrix.blocks->data(), rows, matrix.cols,
                       biased ? biases.back()->data() : nullptr, ys.back()->data(), stride});
    matrices.push_back(std::move(matrix));
  }

  std::vector<DeviceMatrix> matrices;
  std::vector<std::vector<float>> bias_values;
  std::vector<std::unique_ptr<DeviceArray<float>>> biases, ys;
  std::vector<MatMulOutput> outputs;
};

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
TEST_F(MatMulCudaTest, DeferredNorms) {
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
TEST_F(MatMulCudaTest, DeferredNormsOfSeveralRows) {
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
TEST_F(MatMulCudaTest, GatedUnit) {
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
