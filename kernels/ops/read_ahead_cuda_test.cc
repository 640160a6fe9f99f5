#include "kernels/ops/read_ahead_cuda.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

// What is brought nearer cannot be seen; that nothing is changed, and nothing beyond is touched,
// whatever there is to be read, can.
TEST(ReadAheadCudaTest, ChangesNothing) {
  if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  std::vector<uint8_t> bytes(100'003);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  DeviceArray<uint8_t> data(bytes);
  const auto size = static_cast<int64_t>(bytes.size());
  const std::vector<std::vector<ReadAhead>> calls = {
      {},
      {{}},
      {{data.data(), size, size}},
      {{data.data() + 5, size - 5, 1000}, {data.data(), 100, 100}},
      {{data.data(), size, 1}, {}, {data.data(), 0, 7}, {data.data() + 130, 300, 0}}};
  DeviceArray<int32_t> count(std::vector<int32_t>(1, 3));
  for (const std::vector<ReadAhead>& call : calls) {
    for (const int least : {3, 4}) {
      BringAllNearer(call, count.data(), least, nullptr);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
  }
  EXPECT_EQ(data.ToHost(), bytes);
}

}  // namespace
}  // namespace gguf_offload::cuda
