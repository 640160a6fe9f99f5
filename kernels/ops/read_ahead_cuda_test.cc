#include "kernels/ops/read_ahead_cuda.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

TEST(ReadAheadTest, NoMoreThanWantedAndNotMuchLess) {
  for (const int64_t bytes : {128, 1000, 66060288}) {
    for (const int64_t most_bytes : {1, 128, 999, 1000, 25000000, 66060287, 70000000}) {
      const int64_t step = ReadAhead{nullptr, bytes, most_bytes}.step();
      ASSERT_GE(step, 1);
      EXPECT_LE(bytes, most_bytes * step);
      EXPECT_TRUE(step == 1 || bytes > most_bytes * (step - 1)) << bytes << " " << most_bytes;
    }
  }
}

// What is brought nearer cannot be seen, but that the kernel runs, whatever there is to be read.
TEST(ReadAheadCudaTest, Runs) {
  if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  constexpr int64_t kBytes = 100'003;
  DeviceArray<uint8_t> data(kBytes);
  DeviceArray<int32_t> count(std::vector<int32_t>(1, 3));
  const std::vector<std::vector<ReadAhead>> calls = {
      {},
      {{}},
      {{data.data(), kBytes, kBytes}},
      {{data.data() + 5, kBytes - 5, 1000}, {data.data(), 100, 100}},
      {{data.data(), kBytes, 1}, {}, {data.data(), 0, 7}, {data.data() + 130, 300, 0}}};
  for (const std::vector<ReadAhead>& call : calls) {
    for (const int least : {3, 4}) {
      BringAllNearer(call, count.data(), least, nullptr);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda
