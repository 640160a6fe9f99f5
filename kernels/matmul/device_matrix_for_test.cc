#include "kernels/matmul/device_matrix_for_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

#include "kernels/quant/golden_blocks.h"

namespace gguf_offload::cuda {
namespace {

using quant::GoldenBlocks;
using quant::TensorType;

// The golden types and F32, whose bytes are its values.
const std::vector<GoldenBlocks>& AllBlocks() {
  static const auto& all = *[] {
    auto* types = new std::vector<GoldenBlocks>(quant::AllGoldenBlocks());
    GoldenBlocks f32{"F32", 0, 1, 4, {}, {}};
    for (const GoldenBlocks& golden : *types) {
      if (golden.name == "Q6_K") f32.values = golden.values;
    }
    f32.blocks.resize(f32.values.size() * sizeof(float));
    memcpy(f32.blocks.data(), f32.values.data(), f32.blocks.size());
    types->push_back(f32);
    return types;
  }();
  return all;
}

const GoldenBlocks& BlocksOf(TensorType type) {
  for (const GoldenBlocks& golden : AllBlocks()) {
    if (golden.type() == type) return golden;
  }
  throw std::runtime_error("no golden blocks of type " +
                           std::to_string(static_cast<uint32_t>(type)));
}

}  // namespace

std::vector<TensorType> TestedTypes() {
  std::vector<TensorType> types;
  for (const GoldenBlocks& golden : AllBlocks()) types.push_back(golden.type());
  return types;
}

DeviceMatrix MakeMatrix(TensorType type, int64_t rows, int64_t cols, uint32_t seed,
                        size_t misalignment) {
  const GoldenBlocks& golden = BlocksOf(type);
  std::mt19937 random(seed);
  const size_t count = static_cast<size_t>(rows * cols) / golden.block_elements;
  std::vector<uint8_t> blocks(count * golden.block_bytes);
  DeviceMatrix matrix{golden.name, type, rows, cols, {}, nullptr};
  matrix.values.resize(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < count; ++i) {
    const size_t chosen = random() % (golden.blocks.size() / golden.block_bytes);
    memcpy(&blocks[i * golden.block_bytes], &golden.blocks[chosen * golden.block_bytes],
           golden.block_bytes);
    memcpy(&matrix.values[i * golden.block_elements],
           &golden.values[chosen * golden.block_elements], golden.block_elements * sizeof(float));
  }
  matrix.blocks = std::make_unique<DeviceArray<uint8_t>>(blocks, misalignment);
  return matrix;
}

std::vector<float> MakeActivations(int n, int64_t cols, int64_t stride, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n * stride, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < n; ++i) {
    for (int64_t c = 0; c < cols; ++c) x[i * stride + c] = normal(random);
  }
  return x;
}

ExactProduct Multiply(const float* w, const float* x, int64_t cols) {
  ExactProduct out;
  double w2 = 0, x2 = 0;
  for (int64_t c = 0; c < cols; ++c) {
    const double product = double{w[c]} * double{x[c]};
    out.product += product;
    out.magnitude += std::abs(product);
    w2 += double{w[c]} * double{w[c]};
    x2 += double{x[c]} * double{x[c]};
  }
  out.norms = std::sqrt(w2) * std::sqrt(x2);
  return out;
}

HostQuantizedRows QuantizeOnHost(const std::vector<float>& x, int n, int64_t cols, int64_t stride) {
  HostQuantizedRows out;
  for (int i = 0; i < n; ++i) {
    for (int64_t group = 0; group < cols / 32; ++group) {
      const float* from = &x[i * stride + 32 * group];
      float largest = 0;
      for (int k = 0; k < 32; ++k) largest = std::max(largest, std::abs(from[k]));
      const float scale = largest * (1.0f / 127.0f);
      const float inverse = largest >= 1e-35f ? 127.0f / largest : 0.0f;
      out.scale.push_back(scale);
      for (int k = 0; k < 32; ++k) {
        const float q = std::clamp(std::nearbyint(from[k] * inverse), -127.0f, 127.0f);
        out.q.push_back(static_cast<int8_t>(q));
        out.values.push_back(q * scale);
      }
    }
  }
  return out;
}

}  // namespace gguf_offload::cuda
