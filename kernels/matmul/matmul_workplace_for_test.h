// A MatMul with memory to work in, and outputs for it.
#ifndef KERNELS_MATMUL_MATMUL_WORKPLACE_FOR_TEST_H_
#define KERNELS_MATMUL_MATMUL_WORKPLACE_FOR_TEST_H_

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/matmul/device_matrix_for_test.h"
#include "kernels/matmul/matmul_cuda.h"
#include "kernels/quant/device_array_for_test.h"

namespace gguf_offload::cuda {

// The library that this machine has, or null.
inline const CublasLibrary* Cublas() {
  static const auto& library = *[] {
    std::string error;
    auto* loaded = new std::unique_ptr<CublasLibrary>(CublasLibrary::Load(error));
    if (*loaded == nullptr) printf("no cuBLAS: %s\n", error.c_str());
    return loaded;
  }();
  return library.get();
}

// A MatMul and its memory.
struct Workplace {
  explicit Workplace(const MatMulConfig& config)
      : memory(MatMul::WorkspaceBytes(config)),
        matmul(MatMul::Create(config, memory.data(), error)) {}

  DeviceArray<uint8_t> memory;
  std::string error;
  std::unique_ptr<MatMul> matmul;
};

inline MatMulConfig Config(Precision precision, int max_rows, int64_t max_cols) {
  MatMulConfig config;
  config.precision = precision;
  config.max_rows = max_rows;
  config.max_cols = max_cols;
  config.cublas = Cublas();
  // Weights go through in several parts.
  config.weight_scratch_bytes = HalfMatMul::LeastWeightBytes(max_cols) * 9;
  config.cublas_workspace_bytes = size_t{8} << 20;
  return config;
}

// Outputs of several matrices: their memory on the device.
struct Outputs {
  void Add(DeviceMatrix matrix, int n, bool biased) {
    const int64_t rows = matrix.rows, stride = rows + matrices.size() % 4;
    bias_values.push_back(biased ? MakeActivations(1, rows, rows, 77)
                                 : std::vector<float>(rows, 0.0f));
    biases.push_back(std::make_unique<DeviceArray<float>>(bias_values.back()));
    ys.push_back(std::make_unique<DeviceArray<float>>(n * stride));
    outputs.push_back({matrix.type, matrix.blocks->data(), rows, matrix.cols,
                       biased ? biases.back()->data() : nullptr, ys.back()->data(), stride});
    matrices.push_back(std::move(matrix));
  }

  std::vector<DeviceMatrix> matrices;
  std::vector<std::vector<float>> bias_values;
  std::vector<std::unique_ptr<DeviceArray<float>>> biases, ys;
  std::vector<MatMulOutput> outputs;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_MATMUL_WORKPLACE_FOR_TEST_H_
