#include "kernels/matmul/half_matmul_cuda.h"

#include <algorithm>

#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/quant/dequantize_cuda.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

// Parts of a weight begin at multiples of this many rows: whatever the bytes of a row, that is a
// multiple of the weight's alignment of 8 bytes.
constexpr int64_t kPartRows = 8;

}  // namespace

size_t HalfMatMul::LeastWeightBytes(int64_t cols) {
  return static_cast<size_t>(kPartRows * PadHalfColumns(cols)) * sizeof(__half);
}

std::unique_ptr<HalfMatMul> HalfMatMul::Create(const CublasLibrary& library, const Memory& memory,
                                               std::string& error) {
  std::unique_ptr<HalfMatMul> out(new HalfMatMul(library, memory));
  const cublasStatus_t status = library.create(&out->handle_);
  if (status != CUBLAS_STATUS_SUCCESS) {
    out->handle_ = nullptr;
    error = std::string("cublasCreate: ") + library.status_string(status);
    return nullptr;
  }
  if (const char* reason = out->UseStream(nullptr); reason != nullptr) {
    error = std::string("cublasSetWorkspace: ") + reason;
    return nullptr;
  }
  return out;
}

HalfMatMul::~HalfMatMul() {
  if (handle_ != nullptr) library_.destroy(handle_);
}

const char* HalfMatMul::UseStream(cudaStream_t stream) {
  cublasStatus_t status = library_.set_stream(handle_, stream);
  // Setting the stream brings back cuBLAS's own workspace, so ours must be set again.
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = library_.set_workspace(handle_, memory_.workspace, memory_.workspace_bytes);
  }
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : library_.status_string(status);
}

void HalfMatMul::SetActivations(const float* x, int64_t x_stride, int n) {
  x_ = x;
  x_stride_ = x_stride;
  n_ = n;
  converted_ = false;
}

// cuBLAS counts by columns, so in its eyes the weight is transposed, x and y are as they are:
// y (rows x n) = weight (cols x rows)^T * x (cols x n).
const char* HalfMatMul::MultiplyPart(const void* weight, cudaDataType type, int64_t weight_stride,
                                     const void* x, int64_t x_stride, int64_t rows, int64_t cols,
                                     float* y, int64_t y_stride) {
  const float one = 1, zero = 0;
  const cublasStatus_t status = library_.gemm_ex(
      handle_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(rows), n_, static_cast<int>(cols), &one,
      weight, type, static_cast<int>(weight_stride), x, type, static_cast<int>(x_stride), &zero, y,
      CUDA_R_32F, static_cast<int>(y_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : library_.status_string(status);
}

const char* HalfMatMul::MultiplyHalf(const MatMulOutput& output, cudaStream_t stream) {
  if (!converted_) {
    RowsToHalf(x_, x_stride_, n_, output.cols, memory_.x, memory_.row_scale, stream);
    converted_ = true;
  }
  const int64_t padded = PadHalfColumns(output.cols);
  const bool in_place = output.type == TensorType::kF16 && padded == output.cols &&
                        reinterpret_cast<uintptr_t>(output.weight) % 16 == 0;
  if (in_place) {
    return MultiplyPart(output.weight, CUDA_R_16F, padded, memory_.x, padded, output.rows, padded,
                        output.y, output.y_stride);
  }
  const uint64_t row_bytes = quant::RowBytes(quant::FormatOf(output.type), output.cols);
  const int64_t fitting = static_cast<int64_t>(memory_.weight_bytes / (padded * sizeof(__half)));
  if (fitting < kPartRows) return "too little memory for a part of the weight";
  const int64_t part_rows = fitting / kPartRows * kPartRows;
  for (int64_t row = 0; row < output.rows; row += part_rows) {
    const int64_t rows = std::min(part_rows, output.rows - row);
    const uint8_t* weight = output.weight + row * row_bytes;
    if (padded != output.cols) {  // plain numbers, then
      PlainToHalf(output.type, weight, rows, output.cols, memory_.weight, stream);
    } else {
      DequantizeToHalf(output.type, weight, rows * output.cols, memory_.weight, stream);
    }
    const char* error = MultiplyPart(memory_.weight, CUDA_R_16F, padded, memory_.x, padded, rows,
                                     padded, output.y + row, output.y_stride);
    if (error != nullptr) return error;
  }
  return nullptr;
}

const char* HalfMatMul::Multiply(const MatMulOutput& output, cudaStream_t stream) {
  if (output.rows <= 0 || n_ <= 0) return nullptr;
  if (const char* error = UseStream(stream); error != nullptr) return error;
  if (output.type == TensorType::kF32) {
    const char* error = MultiplyPart(output.weight, CUDA_R_32F, output.cols, x_, x_stride_,
                                     output.rows, output.cols, output.y, output.y_stride);
    if (error != nullptr) return error;
    ScaleRowsAddBias(nullptr, output.scale, output.bias, output.y, output.y_stride, n_, output.rows,
                     stream);
    return nullptr;
  }
  if (const char* error = MultiplyHalf(output, stream); error != nullptr) return error;
  ScaleRowsAddBias(memory_.row_scale, output.scale, output.bias, output.y, output.y_stride, n_,
                   output.rows, stream);
  return nullptr;
}

}  // namespace gguf_offload::cuda
