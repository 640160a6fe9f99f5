#include "kernels/matmul/head_matmul_cuda.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

class HeadMatMulCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

// Rows [first_row, first_row + rows) of each head's head_rows.
struct Case {
  TensorType type;
  int heads;
  int64_t head_rows, first_row, rows, cols;
};

void Check(const Case& c, bool transposed, int n) {
  const DeviceMatrix matrix = MakeMatrix(c.type, c.heads * c.head_rows, c.cols, 1, 8);
  SCOPED_TRACE(matrix.name + (transposed ? " transposed" : "") + " times " + std::to_string(n));
  const int64_t summed = transposed ? c.rows : c.cols, results = transposed ? c.cols : c.rows;
  // Heads lie in a part of wider ones.
  const int64_t x_head = summed + 3, y_head = results + 2;
  const int64_t x_stride = c.heads * x_head + 5, y_stride = c.heads * y_head + 1;
  const std::vector<float> x = MakeActivations(n, x_stride, x_stride, 2);
  DeviceArray<float> device_x(x), y(n * y_stride);
  const int64_t row_bytes = quant::RowBytes(quant::FormatOf(c.type), c.cols);
  MultiplyHeads({.type = c.type,
                 .data = matrix.blocks->data() + c.first_row * row_bytes,
                 .heads = c.heads,
                 .rows = c.rows,
                 .cols = c.cols,
                 .head_bytes = c.head_rows * row_bytes},
                transposed, {device_x.data(), x_stride, x_head}, n, {y.data(), y_stride, y_head},
                {}, nullptr);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  const std::vector<float> got = y.ToHost();
  for (int token = 0; token < n; ++token) {
    for (int64_t i = 0; i < y_stride; ++i) {
      const int64_t head = i / y_head, result = i % y_head;
      const float value = got[token * y_stride + i];
      if (head >= c.heads || result >= results) {
        ASSERT_EQ(std::bit_cast<uint32_t>(value), 0xffffffffu);
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < summed; ++k) {
        const int64_t row = head * c.head_rows + c.first_row + (transposed ? k : result);
        const double product = double{matrix.values[row * c.cols + (transposed ? result : k)]} *
                               x[token * x_stride + head * x_head + k];
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_LE(std::abs(value - sum), 2e-6 * magnitude + 1e-30)
          << token << " " << head << " " << result;
    }
  }
}

// Products of `n` rows that lie one after the other, with their 8-bit form.
struct Quantized {
  std::vector<float> y;
  std::vector<int8_t> q;
  std::vector<float2> scale;
};

Quantized MultiplyAndQuantize(const HeadMatrices& weight, const std::vector<float>& x, int n) {
  const int64_t columns = weight.heads * weight.rows, x_columns = weight.heads * weight.cols;
  DeviceArray<float> device_x(x), y(n * columns);
  DeviceArray<int8_t> q(n * columns);
  DeviceArray<float2> scale(n * columns / 32);
  MultiplyHeads(weight, false, {device_x.data(), x_columns, weight.cols}, n,
                {y.data(), columns, weight.rows}, {q.data(), scale.data(), columns}, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  return {y.ToHost(), q.ToHost(), scale.ToHost()};
}

TEST_F(HeadMatMulCudaTest, TheEightBitFormIsThatOfTheRows) {
  for (const auto& [rows, cols] : {std::pair(64, 128), std::pair(128, 512), std::pair(96, 32)}) {
    SCOPED_TRACE(cols);
    const DeviceMatrix matrix = MakeMatrix(TensorType::kQ8_0, 3 * rows, cols, 1, 8);
    const HeadMatrices weight = {
        .type = TensorType::kQ8_0,
        .data = matrix.blocks->data(),
        .heads = 3,
        .rows = rows,
        .cols = cols,
        .head_bytes =
            static_cast<int64_t>(rows * quant::RowBytes(quant::FormatOf(TensorType::kQ8_0), cols))};
    const int64_t columns = 3 * rows;
    const std::vector<float> x = MakeActivations(64, 3 * cols, 3 * cols, 2);
    ASSERT_TRUE(CanQuantizeHeads(weight, 64));
    EXPECT_FALSE(CanQuantizeHeads(weight, 65));
    const Quantized all = MultiplyAndQuantize(weight, x, 64);
    DeviceArray<float> y(all.y);
    DeviceArray<int8_t> q(64 * columns);
    DeviceArray<float2> scale(64 * columns / 32);
    QuantizeRows(y.data(), columns, 64, {q.data(), scale.data(), columns}, nullptr);
    EXPECT_EQ(all.q, q.ToHost());
    const std::vector<float2> expected = scale.ToHost();
    EXPECT_EQ(std::memcmp(all.scale.data(), expected.data(), expected.size() * sizeof(float2)), 0);
    // The same by itself as among others.
    for (int row : {0, 5, 63}) {
      const auto from = x.begin() + row * 3 * cols;
      const Quantized one = MultiplyAndQuantize(weight, {from, from + 3 * cols}, 1);
      EXPECT_EQ(std::memcmp(one.y.data(), &all.y[row * columns], columns * sizeof(float)), 0);
    }
  }
}

TEST_F(HeadMatMulCudaTest, ProductsAreExactUpToRounding) {
  for (TensorType type : TestedTypes()) {
    const Case c = {type, 3, 80, 7, 70, 256};
    const bool known = type == TensorType::kF32 || type == TensorType::kF16 ||
                       type == TensorType::kBF16 || quant::FormatOf(type).block_elements > 1;
    if (!known) continue;
    for (const bool transposed : {false, true}) {
      Check(c, transposed, 1);
      Check(c, transposed, 3);
      Check(c, transposed, 37);
      if (HasFatalFailure()) return;
    }
  }
  for (const bool transposed : {false, true}) {
    Check({TensorType::kQ8_0, 2, 128, 0, 128, 512}, transposed, 4);
    Check({TensorType::kQ8_0, 5, 9, 0, 9, 96}, transposed, 5);
    Check({TensorType::kF16, 2, 33, 1, 31, 44}, transposed, 33);
    Check({TensorType::kF16, 2, 33, 1, 31, 44}, transposed, 2);
    Check({TensorType::kQ4_0, 3, 40, 0, 40, 32}, transposed, 1);
    Check({TensorType::kBF16, 2, 70, 3, 67, 1500}, transposed, 2);
    Check({TensorType::kQ8_0, 1, 6, 0, 6, 4096}, transposed, 4);
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
