// Views of tensors in a backend's memory. None of them owns anything.
#ifndef COMPUTED_RUNTIME_TENSOR_H_
#define COMPUTED_RUNTIME_TENSOR_H_

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload {

// A weight as it is in the file: row-major blocks. Vectors (norms, biases) have one row and are
// always float32 by the time a model sees them.
struct Weight {
  quant::TensorType type = quant::TensorType::kF32;
  const uint8_t* data = nullptr;  // (matrices, rows, columns)
  int64_t columns = 0;
  int64_t rows = 1;
  int64_t matrices = 1;  // more than one for banks of experts

  // False for an optional tensor that the file does not have.
  explicit operator bool() const { return data != nullptr; }
  // The values of a vector: (columns).
  const float* floats() const { return reinterpret_cast<const float*>(data); }
};

// Activations: float32, row-major, a row a token.
struct Matrix {
  float* data = nullptr;
  int rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements from one row to the next

  // The first `n` rows.
  Matrix Rows(int n) const { return {data, n, columns, stride}; }
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_TENSOR_H_
