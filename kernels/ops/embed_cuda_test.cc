#include "kernels/ops/embed_cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/device_array_for_test.h"
#include "kernels/quant/format.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::Format;
using quant::TensorType;

constexpr int kVocab = 57;

bool SameNumber(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

class EmbedCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  std::vector<uint8_t> RandomTable(const Format& format, int64_t columns) {
    std::vector<uint8_t> table(kVocab * quant::RowBytes(format, static_cast<uint64_t>(columns)));
    for (uint8_t& byte : table) byte = static_cast<uint8_t>(random_());
    return table;
  }

  // The first and the last row are always among them.
  std::vector<int32_t> RandomTokens(int n) {
    std::vector<int32_t> tokens(n);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % kVocab);
    tokens[0] = kVocab - 1;
    if (n > 1) tokens[1] = 0;
    return tokens;
  }

  // `device_table` is what the device sees of `table`.
  static void ExpectRows(const Format& format, const std::vector<uint8_t>& table,
                         const uint8_t* device_table, const std::vector<int32_t>& tokens,
                         int64_t columns, int64_t stride) {
    SCOPED_TRACE(testing::Message() << format.name << ", " << tokens.size() << " rows of "
                                    << columns << " at " << stride);
    DeviceArray<int32_t> device_tokens(tokens);
    DeviceArray<float> out(tokens.size() * static_cast<size_t>(stride));
    EmbedRows(format.type, device_table, device_tokens.data(), static_cast<int>(tokens.size()),
              columns, out.data(), stride, nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> values = out.ToHost();
    const size_t row_bytes = quant::RowBytes(format, static_cast<uint64_t>(columns));
    std::vector<float> expected(static_cast<size_t>(columns));
    for (size_t row = 0; row < tokens.size(); ++row) {
      quant::Dequantize(format.type, &table[static_cast<size_t>(tokens[row]) * row_bytes],
                        expected.size(), expected.data());
      const float* actual = &values[row * static_cast<size_t>(stride)];
      for (int64_t i = 0; i < columns; ++i) {
        ASSERT_TRUE(SameNumber(actual[i], expected[static_cast<size_t>(i)]))
            << "row " << row << " column " << i << ": " << actual[i];
      }
      for (int64_t i = columns; i < stride; ++i) {
        uint32_t bits;
        memcpy(&bits, &actual[i], sizeof(bits));
        ASSERT_EQ(bits, 0xffffffffu) << "wrote between the rows, column " << i;
      }
    }
  }

  std::mt19937 random_{7};
};

// Rows of one block begin at every alignment; longer ones need several tiles.
TEST_F(EmbedCudaTest, EveryType) {
  for (uint32_t number = 0; number < 64; ++number) {
    const Format* format = quant::FindFormat(number);
    if (format == nullptr || !format->dequantizable) continue;
    for (int64_t blocks : {1, 3, 9, 65, 300}) {
      const int64_t columns = blocks * format->block_elements;
      if (columns > 20000) continue;
      const std::vector<uint8_t> table = RandomTable(*format, columns);
      for (size_t misalignment : {0, 8}) {
        DeviceArray<uint8_t> device_table(table, misalignment);
        for (int n : {1, 2, 37}) {
          const int64_t stride = (columns + 15) / 16 * 16 + (n == 2 ? 0 : 16);
          ExpectRows(*format, table, device_table.data(), RandomTokens(n), columns, stride);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(EmbedCudaTest, FromMappedHostMemory) {
  for (TensorType type : {TensorType::kQ8_0, TensorType::kQ6_K, TensorType::kF16}) {
    const Format& format = quant::FormatOf(type);
    constexpr int64_t kColumns = 2560;
    const std::vector<uint8_t> table = RandomTable(format, kColumns);
    void* host;
    void* device;
    ASSERT_EQ(cudaHostAlloc(&host, table.size() + 16, cudaHostAllocMapped), cudaSuccess);
    memcpy(host, table.data(), table.size());
    ASSERT_EQ(cudaHostGetDevicePointer(&device, host, 0), cudaSuccess);
    ExpectRows(format, table, static_cast<const uint8_t*>(device), RandomTokens(5), kColumns,
               kColumns);
    cudaFreeHost(host);
  }
}

TEST_F(EmbedCudaTest, NoRows) {
  EmbedRows(TensorType::kQ8_0, nullptr, nullptr, 0, 32, nullptr, 32, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace gguf_offload::cuda
