#include "kernels/matmul/matmul_cuda.h"

#include <algorithm>

#include "kernels/matmul/float_matvec_cuda.h"
#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/matmul/matvec_matrix.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/matmul/quantized_matvec_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr size_t kAlignment = 256;

int QuantizedRowCount(const MatMulConfig& config) {
  if (config.cublas == nullptr) return config.max_rows;
  return config.precision == Precision::kHalf ? 0 : std::min(config.crossover, config.max_rows);
}

}  // namespace

// The parts of the workspace, as offsets into it.
struct MatMul::Layout {
  size_t q = 0, scale = 0, half_x = 0, row_scale = 0, weight = 0, cublas = 0;
  size_t bytes = 0;

  explicit Layout(const MatMulConfig& config) {
    const size_t cols = static_cast<size_t>((config.max_cols + 31) / 32 * 32);
    const size_t quantized_rows = static_cast<size_t>(QuantizedRowCount(config));
    q = Add(quantized_rows * cols);
    scale = Add(quantized_rows * (cols / 32) * sizeof(float2));
    if (config.cublas == nullptr) return;
    const size_t rows = static_cast<size_t>(config.max_rows);
    half_x = Add(rows * static_cast<size_t>(PadHalfColumns(config.max_cols)) * sizeof(__half));
    row_scale = Add(rows * sizeof(float));
    weight = Add(config.weight_scratch_bytes);
    cublas = Add(config.cublas_workspace_bytes);
  }

 private:
  size_t Add(size_t part) {
    const size_t begin = bytes;
    bytes += (part + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  }
};

size_t MatMul::WorkspaceBytes(const MatMulConfig& config) { return Layout(config).bytes; }

std::unique_ptr<MatMul> MatMul::Create(const MatMulConfig& config, void* memory,
                                       std::string& error) {
  if (config.cublas == nullptr && config.precision == Precision::kHalf) {
    error = "half precision needs cuBLAS, which this machine lacks";
    return nullptr;
  }
  if (config.cublas != nullptr &&
      config.weight_scratch_bytes < HalfMatMul::LeastWeightBytes(config.max_cols)) {
    error = "the memory for expanded weights is smaller than " +
            std::to_string(HalfMatMul::LeastWeightBytes(config.max_cols)) + " bytes";
    return nullptr;
  }
  const Layout layout(config);
  uint8_t* base = static_cast<uint8_t*>(memory);
  std::unique_ptr<MatMul> out(new MatMul);
  out->max_rows_ = config.max_rows;
  out->max_quantized_rows_ = QuantizedRowCount(config);
  out->max_cols_ = config.max_cols;
  out->quantized_.q = reinterpret_cast<int8_t*>(base + layout.q);
  out->quantized_.scale = reinterpret_cast<float2*>(base + layout.scale);
  if (config.cublas != nullptr) {
    const HalfMatMul::Memory half = {reinterpret_cast<__half*>(base + layout.half_x),
                                     reinterpret_cast<float*>(base + layout.row_scale),
                                     reinterpret_cast<__half*>(base + layout.weight),
                                     config.weight_scratch_bytes,
                                     base + layout.cublas,
                                     config.cublas_workspace_bytes};
    out->half_ = HalfMatMul::Create(*config.cublas, half, error);
    if (out->half_ == nullptr) return nullptr;
  }
  return out;
}

bool MatMul::Supports(quant::TensorType type) {
  return IsQuantizedMatVecType(type) || IsFloatMatVecType(type);
}

QuantizedRows MatMul::PrepareQuantized(int n, int64_t cols) const {
  QuantizedRows out;
  if (IsQuantized(n)) out = quantized_;
  out.columns = cols;
  return out;
}

// One launch for up to kMaxMatVecMatrices outputs of the same type.
const char* MatMul::RunMatVec(const float* x, int64_t x_stride, int n, bool already_quantized,
                              std::span<const MatMulOutput> outputs, cudaStream_t stream) {
  const int64_t cols = outputs[0].cols;
  const QuantizedRows rows = PrepareQuantized(n, cols);
  bool quantized = already_quantized;
  for (size_t first = 0; first < outputs.size(); ++first) {
    const quant::TensorType type = outputs[first].type;
    const auto is_type = [type](const MatMulOutput& output) { return output.type == type; };
    // Each type's outputs go with the first of them.
    if (std::any_of(outputs.begin(), outputs.begin() + first, is_type)) continue;
    const bool plain = IsFloatMatVecType(type);
    if (plain && x == nullptr) return "F32, F16 and BF16 weights need activations in float32";
    if (!plain && !quantized) {
      QuantizeRows(x, x_stride, n, rows, stream);
      quantized = true;
    }
    MatVecMatrix matrices[kMaxMatVecMatrices];
    size_t count = 0;
    const auto launch = [&] {
      const std::span<const MatVecMatrix> these(matrices, count);
      if (plain) {
        FloatMatVec(type, these, cols, x, x_stride, n, stream);
      } else {
        QuantizedMatVec(type, these, cols, rows, n, stream);
      }
      count = 0;
    };
    for (size_t i = first; i < outputs.size(); ++i) {
      const MatMulOutput& output = outputs[i];
      if (!is_type(output)) continue;
      matrices[count++] = {output.weight, output.rows, output.bias, output.y, output.y_stride};
      if (count == kMaxMatVecMatrices) launch();
    }
    if (count > 0) launch();
  }
  return nullptr;
}

const char* MatMul::Run(const float* x, int64_t x_stride, int n, bool already_quantized,
                        std::span<const MatMulOutput> outputs, cudaStream_t stream) {
  if (n <= 0 || outputs.empty()) return nullptr;
  const int64_t cols = outputs[0].cols;
  if (n > max_rows_ || cols > max_cols_) return "more activations than memory was planned for";
  for (const MatMulOutput& output : outputs) {
    if (!Supports(output.type)) return "a weight's type cannot be multiplied";
    if (output.cols != cols) return "weights with the same activations differ in columns";
  }
  if (IsQuantized(n)) return RunMatVec(x, x_stride, n, already_quantized, outputs, stream);
  if (x == nullptr) return "this many activations are needed in float32";
  half_->SetActivations(x, x_stride, n);
  for (const MatMulOutput& output : outputs) {
    if (const char* error = half_->Multiply(output, stream); error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace gguf_offload::cuda
