// Weights and activations for the tests of products on the GPU.
#ifndef KERNELS_MATMUL_DEVICE_MATRIX_FOR_TEST_H_
#define KERNELS_MATMUL_DEVICE_MATRIX_FOR_TEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/quant/device_array_for_test.h"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {

// A matrix put together from randomly chosen golden blocks.
struct DeviceMatrix {
  std::string name;  // of the type
  quant::TensorType type;
  int64_t rows;
  int64_t cols;
  std::vector<float> values;  // (rows, cols)
  std::unique_ptr<DeviceArray<uint8_t>> blocks;
};

// The types that golden blocks exist for, and F32.
std::vector<quant::TensorType> TestedTypes();

// The blocks begin `misalignment` bytes behind an address aligned to 256 bytes.
DeviceMatrix MakeMatrix(quant::TensorType type, int64_t rows, int64_t cols, uint32_t seed,
                        size_t misalignment = 0);

// (n, stride): normally distributed, NaN between the rows.
std::vector<float> MakeActivations(int n, int64_t cols, int64_t stride, uint32_t seed);

// What is compared with a product: y[i][r] of x (n, stride) in float64.
struct ExactProduct {
  double product = 0;    // sum of w * x
  double magnitude = 0;  // sum of |w * x|
  double norms = 0;      // norm of w times norm of x
};
ExactProduct Multiply(const float* w, const float* x, int64_t cols);  // both (cols)

// Activations as 8-bit groups hold them, quantized on the host: (n, stride) -> (n, cols) numbers,
// their scales (n, cols / 32) and what they mean (n, cols).
struct HostQuantizedRows {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<float> values;
};
HostQuantizedRows QuantizeOnHost(const std::vector<float>& x, int n, int64_t cols, int64_t stride);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_DEVICE_MATRIX_FOR_TEST_H_
