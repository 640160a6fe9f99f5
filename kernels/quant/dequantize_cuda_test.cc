#include "kernels/quant/dequantize_cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/quant/dequantize.h"
#include "kernels/quant/device_array_for_test.h"
#include "kernels/quant/format.h"
#include "kernels/quant/golden_blocks.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload::cuda {
namespace {

using quant::Format;
using quant::TensorType;

constexpr size_t kGuard = 64;  // elements behind the output that must stay as they are

std::vector<Format> DequantizableFormats() {
  std::vector<Format> formats;
  for (uint32_t type = 0; type < 64; ++type) {
    const Format* format = quant::FindFormat(type);
    if (format != nullptr && format->dequantizable) formats.push_back(*format);
  }
  return formats;
}

std::vector<uint8_t> RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

uint16_t BitsOf(__half half) {
  uint16_t bits;
  memcpy(&bits, &half, sizeof(bits));
  return bits;
}

bool SameNumber(float a, float b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

// The nearest finite binary16 number, by the toolkit's host code.
bool IsRounded(__half half, float value) {
  if (std::isnan(value)) return std::isnan(__half2float(half));
  return BitsOf(half) == BitsOf(__float2half_rn(std::clamp(value, -65504.0f, 65504.0f)));
}

class DequantizeCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  // Both outputs of `blocks`, laid `misalignment` bytes behind an aligned address.
  static void ExpectValues(const Format& format, const std::vector<uint8_t>& blocks,
                           size_t misalignment, const std::vector<float>& expected) {
    SCOPED_TRACE(testing::Message()
                 << format.name << ", " << expected.size() << " elements, at " << misalignment);
    DeviceArray<uint8_t> in(blocks, misalignment);
    const auto elements = static_cast<int64_t>(expected.size());
    DeviceArray<float> floats(expected.size() + kGuard);
    DequantizeToFloat(format.type, in.data(), elements, floats.data(), nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<float> values = floats.ToHost();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(SameNumber(values[i], expected[i]))
          << "element " << i << ": " << values[i] << ", not " << expected[i];
    }
    DeviceArray<__half> halfs(expected.size() + kGuard);
    DequantizeToHalf(format.type, in.data(), elements, halfs.data(), nullptr);
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    const std::vector<__half> rounded = halfs.ToHost();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(IsRounded(rounded[i], expected[i]))
          << "element " << i << ": " << __half2float(rounded[i]) << ", not " << expected[i];
    }
    for (size_t i = expected.size(); i < expected.size() + kGuard; ++i) {
      uint32_t bits;
      memcpy(&bits, &values[i], sizeof(bits));
      ASSERT_EQ(bits, 0xffffffffu) << "wrote beyond, at " << i;
      ASSERT_EQ(BitsOf(rounded[i]), 0xffff) << "wrote beyond, at " << i;
    }
  }

  static void ExpectAsCpu(const Format& format, size_t blocks, size_t misalignment) {
    const std::vector<uint8_t> bytes =
        RandomBytes(blocks * format.block_bytes, static_cast<uint32_t>(blocks + misalignment));
    std::vector<float> expected(blocks * format.block_elements);
    quant::Dequantize(format.type, bytes.data(), expected.size(), expected.data());
    ExpectValues(format, bytes, misalignment, expected);
  }
};

TEST_F(DequantizeCudaTest, GoldenValuesExactly) {
  for (const quant::GoldenBlocks& golden : quant::AllGoldenBlocks()) {
    for (size_t misalignment : {0, 8}) {
      ExpectValues(quant::FormatOf(golden.type()), golden.blocks, misalignment, golden.values);
    }
  }
}

// Sizes around those of a warp's tile and of a thread block's, with every tail.
TEST_F(DequantizeCudaTest, RandomBlocksOfManySizes) {
  for (const Format& format : DequantizableFormats()) {
    for (size_t blocks : {1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 129, 1000, 2049}) {
      for (size_t misalignment : {0, 8}) ExpectAsCpu(format, blocks, misalignment);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(DequantizeCudaTest, LargeTensors) {
  for (const Format& format : DequantizableFormats()) {
    ExpectAsCpu(format, 3'000'000 / format.block_elements + 1, 8);
    if (HasFatalFailure()) return;
  }
}

TEST_F(DequantizeCudaTest, NoElements) {
  for (const Format& format : DequantizableFormats()) {
    DequantizeToFloat(format.type, nullptr, 0, nullptr, nullptr);
    DequantizeToHalf(format.type, nullptr, 0, nullptr, nullptr);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << format.name;
  }
}

TEST_F(DequantizeCudaTest, HalfsSaturate) {
  std::vector<uint8_t> blocks(2 * 34, 0);
  blocks[1] = 0x7c;  // f16 infinity
  blocks[34] = 0xff;
  blocks[35] = 0x7b;  // 65504
  for (int i = 0; i < 32; ++i) {
    blocks[2 + i] = static_cast<uint8_t>(i - 16);
    blocks[36 + i] = static_cast<uint8_t>(i - 16);
  }
  DeviceArray<uint8_t> in(blocks);
  DeviceArray<__half> out(64);
  DequantizeToHalf(TensorType::kQ8_0, in.data(), 64, out.data(), nullptr);
  const std::vector<__half> halfs = out.ToHost();
  for (int i = 0; i < 32; ++i) {
    const float of_infinity = __half2float(halfs[i]), of_largest = __half2float(halfs[32 + i]);
    if (i == 16) {
      EXPECT_TRUE(std::isnan(of_infinity));
      EXPECT_EQ(of_largest, 0);
    } else {
      EXPECT_EQ(of_infinity, i < 16 ? -65504.0f : 65504.0f) << i;
      EXPECT_EQ(of_largest, i < 16 ? -65504.0f : 65504.0f) << i;
    }
  }

  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> numbers = {1e38f,     -1e38f,   kInfinity, -kInfinity, 65519.0f,
                                      -65520.0f, 65504.0f, NAN,       0.1f,       -0.0f,
                                      6e-8f,     1.5e-8f,  1e-30f,    2049.0f,    2051.0f};
  std::vector<uint8_t> bytes(numbers.size() * sizeof(float));
  memcpy(bytes.data(), numbers.data(), bytes.size());
  DeviceArray<uint8_t> plain(bytes);
  DeviceArray<__half> rounded(numbers.size());
  DequantizeToHalf(TensorType::kF32, plain.data(), static_cast<int64_t>(numbers.size()),
                   rounded.data(), nullptr);
  const std::vector<__half> values = rounded.ToHost();
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_TRUE(IsRounded(values[i], numbers[i])) << numbers[i];
  }
}

// A graph that was captured once dequantizes what the blocks have become.
TEST_F(DequantizeCudaTest, CanBeCaptured) {
  const Format& format = quant::FormatOf(TensorType::kQ6_K);
  constexpr size_t kBlocks = 20;
  DeviceArray<uint8_t> in(kBlocks * format.block_bytes);
  DeviceArray<float> out(kBlocks * format.block_elements);
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  DequantizeToFloat(format.type, in.data(), static_cast<int64_t>(out.size()), out.data(), stream);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (uint32_t seed : {1u, 2u}) {
    const std::vector<uint8_t> bytes = RandomBytes(in.size(), seed);
    ASSERT_EQ(cudaMemcpy(in.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
              cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    std::vector<float> expected(out.size());
    quant::Dequantize(format.type, bytes.data(), expected.size(), expected.data());
    const std::vector<float> values = out.ToHost();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(SameNumber(values[i], expected[i])) << "seed " << seed << " element " << i;
    }
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace gguf_offload::cuda
