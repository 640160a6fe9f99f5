#include "kernels/ops/gather_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ops/copy_words_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

class GatherCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(GatherCudaTest, CopiesTheChosenRows) {
  for (int cols : {1, 4, 7, 64, 4096}) {
    for (int padding : {0, 3, 16}) {
      for (size_t misalignment : {0, 4}) {
        const int64_t stride = cols + padding, out_stride = cols + 4;
        std::vector<float> x(9 * stride);
        std::iota(x.begin(), x.end(), 0.0f);
        const std::vector<int32_t> rows = {8, 0, -1, 3, 3};
        DeviceArray<float> device_x(x, misalignment), out(rows.size() * out_stride, misalignment);
        DeviceArray<int32_t> device_rows(rows);
        GatherRows(device_x.data(), stride, device_rows.data(), static_cast<int>(rows.size()), cols,
                   out.data(), out_stride, nullptr);
        ASSERT_EQ(cudaGetLastError(), cudaSuccess);
        const std::vector<float> result = out.ToHost();
        for (size_t i = 0; i < result.size(); ++i) {
          const int64_t row = rows[i / out_stride], col = static_cast<int64_t>(i) % out_stride;
          if (row < 0 || col >= cols) {
            ASSERT_TRUE(std::isnan(result[i])) << i;
          } else {
            ASSERT_EQ(result[i], x[row * stride + col]) << i;
          }
        }
      }
    }
  }
}

TEST_F(GatherCudaTest, CopyFromHostSeesWhatTheHostWroteLast) {
  constexpr int kMostWords = 100003;
  uint32_t* host = nullptr;
  CheckCuda(cudaHostAlloc(reinterpret_cast<void**>(&host), (kMostWords + 1) * sizeof(uint32_t),
                          cudaHostAllocMapped));
  uint32_t* mapped = nullptr;
  CheckCuda(cudaHostGetDevicePointer(reinterpret_cast<void**>(&mapped), host, 0));
  uint32_t number = 1;
  for (int words : {1, 3, 4, 5, 130, 1000, kMostWords}) {
    for (int offset : {0, 1}) {
      for (int i = 0; i <= kMostWords; ++i) host[i] = number++;
      DeviceArray<uint32_t> out(words + 1);
      CopyFromHost(mapped + offset, out.data(), words, nullptr);
      ASSERT_EQ(cudaGetLastError(), cudaSuccess);
      const std::vector<uint32_t> result = out.ToHost();
      for (int i = 0; i < words; ++i) ASSERT_EQ(result[i], host[offset + i]) << i;
      EXPECT_EQ(result[words], 0xffffffffu);
    }
  }
  cudaFreeHost(host);
}

}  // namespace
}  // namespace gguf_offload::cuda
