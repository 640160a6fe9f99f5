// 8-bit activations for the tests of kernels that write them.
#ifndef KERNELS_OPS_QUANTIZED_ROWS_FOR_TEST_H_
#define KERNELS_OPS_QUANTIZED_ROWS_FOR_TEST_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/matmul/quantized_rows.cuh"
#include "kernels/quant/device_array_for_test.h"

namespace gguf_offload::cuda {

// Owns memory for `n` rows of `columns`, NaN scales at first.
class QuantizedRowsForTest {
 public:
  QuantizedRowsForTest(int n, int64_t columns)
      : n_(n), columns_(columns), q_(n * columns), scale_(n * columns / 32) {}

  QuantizedRows rows() { return {q_.data(), scale_.data(), columns_}; }

  // Every group of rows from `first_row` on is what rounding `values` (n, columns), rows `stride`
  // apart, to 8 bits gives.
  void ExpectEqual(const std::vector<float>& values, int64_t stride, int first_row = 0) const {
    const std::vector<int8_t> q = q_.ToHost();
    const std::vector<float2> scale = scale_.ToHost();
    for (int row = first_row; row < n_; ++row) {
      for (int64_t group = 0; group < columns_ / 32; ++group) {
        const float* x = &values[row * stride + group * 32];
        const int8_t* number = &q[row * columns_ + group * 32];
        const float2 s = scale[row * columns_ / 32 + group];
        float largest = 0;
        int sum = 0;
        for (int i = 0; i < 32; ++i) {
          largest = std::max(largest, std::abs(x[i]));
          sum += number[i];
        }
        ASSERT_LE(std::abs(s.x - largest / 127), 1e-6f * largest) << row << " " << group;
        ASSERT_LE(std::abs(s.y - s.x * sum), 1e-5f * largest) << row << " " << group;
        for (int i = 0; i < 32; ++i) {
          ASSERT_LE(std::abs(s.x * number[i] - x[i]), 0.5001f * s.x)
              << row << " " << group << " " << i;
        }
      }
    }
  }

  // Nothing has been written to row `row`.
  void ExpectUntouched(int row) const {
    const std::vector<float2> scale = scale_.ToHost();
    for (int64_t group = 0; group < columns_ / 32; ++group) {
      ASSERT_TRUE(std::isnan(scale[row * columns_ / 32 + group].x));
    }
  }

 private:
  int n_;
  int64_t columns_;
  DeviceArray<int8_t> q_;
  DeviceArray<float2> scale_;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_QUANTIZED_ROWS_FOR_TEST_H_
