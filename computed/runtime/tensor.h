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
  // Bytes from one matrix to the next where other data lies in between; 0: they are side by side.
  int64_t matrix_stride = 0;

  // What a product with matrix m is followed by: product * scale[m] + bias[m]. Either may be null.
  const float* scale = nullptr;  // (matrices)
  const float* bias = nullptr;   // (matrices, rows)

  // Of a bank of experts: its layer.
  int expert_layer = -1;
  // The experts that the backend uses are in its cache. `data` is where it can fetch them from; if
  // they come over the network, only its address modulo 16 counts, which is the file's.
  bool cached = false;

  int64_t row_bytes() const {
    return static_cast<int64_t>(quant::RowBytes(quant::FormatOf(type), columns));
  }
  int64_t bytes() const { return matrices * rows * row_bytes(); }
  int64_t stride() const { return matrix_stride != 0 ? matrix_stride : rows * row_bytes(); }
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
  // The first `n` columns.
  Matrix Columns(int64_t n) const { return Columns(0, n); }
  // Columns [first, first + n).
  Matrix Columns(int64_t first, int64_t n) const { return {data + first, rows, n, stride}; }
};

// A part of every head of a matrix of activations: (rows, heads, columns).
struct HeadSlice {
  float* data = nullptr;
  int rows = 0;
  int heads = 0;
  int64_t columns = 0;      // of each head
  int64_t head_stride = 0;  // elements from one head to the next
  int64_t stride = 0;       // elements from one row to the next

  // Columns [first, first + n) of each head of `matrix` (rows, heads * head_dim).
  static HeadSlice Of(const Matrix& matrix, int heads, int64_t first, int64_t n) {
    return {matrix.data + first, matrix.rows, heads, n, matrix.columns / heads, matrix.stride};
  }
};

// A part of every head of a weight: rows [first_row, first_row + rows) of each head's `head_rows`.
// The weight may be one matrix (heads * head_rows, columns) or one a head.
struct HeadWeights {
  const Weight& weight;
  int64_t head_rows = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_TENSOR_H_
