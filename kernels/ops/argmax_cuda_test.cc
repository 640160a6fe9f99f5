#include "kernels/ops/argmax_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/ops/vector.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class ArgMaxCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
    CheckCuda(cudaMalloc(reinterpret_cast<void**>(&cells_), kMostRows * sizeof(ArgMaxCell)));
    CheckCuda(cudaMemset(cells_, 0, kMostRows * sizeof(ArgMaxCell)));
  }
  void TearDown() override { cudaFree(cells_); }

  static constexpr int kMostRows = 40;

  static int32_t Expected(const float* logits, int columns) {
    const float* const end = logits + columns;
    if (!std::all_of(logits, end, [](float logit) { return logit < kInfinity; })) return -1;
    if (*std::max_element(logits, end) == -kInfinity) return -1;
    return static_cast<int32_t>(gguf_offload::ArgMax(logits, columns));
  }

  // `logits` is (rows, stride).
  void ExpectArgMax(const std::vector<float>& logits, int64_t stride, int rows, int columns,
                    size_t misalignment = 0) {
    SCOPED_TRACE(testing::Message() << rows << " x " << columns << " at " << stride);
    DeviceArray<float> device_logits(logits, misalignment);
    DeviceArray<int32_t> out(rows + 1);
    ArgMax(device_logits.data(), stride, rows, columns, out.data(), cells_, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<int32_t> result = out.ToHost();
    for (int row = 0; row < rows; ++row) {
      EXPECT_EQ(result[row], Expected(&logits[row * stride], columns)) << row;
    }
    EXPECT_EQ(result[rows], -1);
  }

  ArgMaxCell* cells_ = nullptr;
};

TEST_F(ArgMaxCudaTest, AgreesWithTheCpu) {
  std::mt19937 random(1);
  for (int columns : {1, 2, 3, 4, 5, 31, 127, 1000, 4096, 4097, 32000, 151936}) {
    for (int padding : {0, 1, 16}) {
      for (int rows : {1, 3}) {
        const int64_t stride = columns + padding;
        std::vector<float> logits(rows * stride);
        // Few different values, so that many are equal.
        for (float& value : logits) value = static_cast<int>(random() % 64) - 60;
        for (int row = 0; row < rows; ++row) {
          for (int64_t i = columns; i < stride; ++i) logits[row * stride + i] = kInfinity;
        }
        ExpectArgMax(logits, stride, rows, columns);
        ExpectArgMax(logits, stride, rows, columns, 4);
      }
    }
  }
}

TEST_F(ArgMaxCudaTest, FindsASingleMaximumAnywhere) {
  constexpr int kColumns = 10007;
  for (int at : {0, 1, 3, 4, 4095, 4096, 8191, 10003, 10006}) {
    std::vector<float> logits(kColumns, -5.0f);
    logits[at] = -4.5f;
    ExpectArgMax(logits, kColumns, 1, kColumns);
  }
}

TEST_F(ArgMaxCudaTest, SaysOfWhatNothingCanBeChosen) {
  for (int columns : {3, 5000}) {
    // One that is not a number anywhere among those that are.
    for (const float bad : {NAN, -NAN, kInfinity}) {
      for (const int at : {0, 1, columns - 1}) {
        std::vector<float> numbers(columns, 1.5f);
        numbers[at] = bad;
        ExpectArgMax(numbers, columns, 1, columns);
      }
    }
    ExpectArgMax(std::vector<float>(columns, NAN), columns, 1, columns);
    ExpectArgMax(std::vector<float>(columns, -NAN), columns, 1, columns);
    ExpectArgMax(std::vector<float>(columns, -kInfinity), columns, 1, columns);
    std::vector<float> logits(columns, NAN);
    logits[columns - 1] = -1e38f;
    ExpectArgMax(logits, columns, 1, columns);
    logits[1] = kInfinity;
    ExpectArgMax(logits, columns, 1, columns);
    // Zeros of either sign are equal.
    logits.assign(columns, -1.0f);
    logits[1] = -0.0f;
    logits[2] = 0.0f;
    ExpectArgMax(logits, columns, 1, columns);
  }
}

TEST_F(ArgMaxCudaTest, ManyRowsRepeatedlyIntoMappedMemory) {
  constexpr int kColumns = 9001;
  int32_t* host = nullptr;
  CheckCuda(cudaHostAlloc(reinterpret_cast<void**>(&host), kMostRows * sizeof(int32_t),
                          cudaHostAllocMapped));
  int32_t* mapped = nullptr;
  CheckCuda(cudaHostGetDevicePointer(reinterpret_cast<void**>(&mapped), host, 0));
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<float> logits(kMostRows * kColumns);
    for (float& value : logits) value = -std::abs(static_cast<float>(random() % 100000));
    DeviceArray<float> device_logits(logits);
    ArgMax(device_logits.data(), kColumns, kMostRows, kColumns, mapped, cells_, nullptr);
    CheckCuda(cudaDeviceSynchronize());
    for (int row = 0; row < kMostRows; ++row) {
      EXPECT_EQ(host[row],
                static_cast<int32_t>(gguf_offload::ArgMax(&logits[row * kColumns], kColumns)));
    }
  }
  cudaFreeHost(host);
}

}  // namespace
}  // namespace gguf_offload::cuda
