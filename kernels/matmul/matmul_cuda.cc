#include "kernels/matmul/matmul_cuda.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/matmul/float_matvec_cuda.h"
#include "kernels/matmul/fused_matvec_cuda.h"
#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/matmul/matvec_matrix.h"
#include "kernels/matmul/paired_matvec_cuda.h"
#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/matmul/quantized_matvec_cuda.h"
#include "kernels/ops/norm_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr size_t kAlignment = 256;

int QuantizedRowCount(const MatMulConfig& config) {
  if (config.cublas == nullptr) return config.max_rows;
  return config.precision == Precision::kHalf ? 0 : std::min(config.crossover, config.max_rows);
}

// Matrices for one launch.
struct SameType {
  quant::TensorType type;
  std::vector<MatVecMatrix> matrices;
};

std::vector<SameType> LaunchesOf(std::span<const MatMulOutput> outputs) {
  std::vector<SameType> launches;
  for (const MatMulOutput& output : outputs) {
    auto launch = std::find_if(launches.begin(), launches.end(), [&](const SameType& of) {
      return of.type == output.type && of.matrices.size() < kMaxMatVecMatrices;
    });
    if (launch == launches.end()) launch = launches.insert(launch, {output.type, {}});
    launch->matrices.push_back(
        {output.weight, output.rows, output.bias, output.y, output.y_stride, output.scale});
  }
  return launches;
}

}  // namespace

// The parts of the workspace, as offsets into it.
struct MatMul::Layout {
  size_t q[2] = {}, scale[2] = {}, factors[2] = {}, half_x = 0, row_scale = 0, weight = 0,
         cublas = 0;
  size_t bytes = 0;

  explicit Layout(const MatMulConfig& config) {
    const size_t cols = static_cast<size_t>((config.max_cols + 31) / 32 * 32);
    const size_t quantized_rows = static_cast<size_t>(QuantizedRowCount(config));
    for (int i = 0; i < 2; ++i) {
      q[i] = Add(quantized_rows * cols);
      scale[i] = Add(quantized_rows * (cols / 32) * sizeof(float2));
      if (quantized_rows > 0) {
        factors[i] = Add(std::max(cols / 32, quantized_rows) * sizeof(float));
      }
    }
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
  for (int i = 0; i < 2; ++i) {
    out->quantized_[i].q = reinterpret_cast<int8_t*>(base + layout.q[i]);
    out->quantized_[i].scale = reinterpret_cast<float2*>(base + layout.scale[i]);
    out->factors_[i] = reinterpret_cast<float*>(base + layout.factors[i]);
  }
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

QuantizedRows MatMul::PrepareQuantized(int n, int64_t cols) {
  deferred_ = false;
  return Input(n, cols);
}

QuantizedRows MatMul::Input(int n, int64_t cols) const {
  QuantizedRows rows;
  if (IsQuantized(n)) rows = quantized_[current_];
  rows.columns = cols;
  if (deferred_) {
    (n == 1 ? rows.squares : rows.factors) = factors_[current_];
    rows.eps = deferred_eps_;
  }
  return rows;
}

// One launch for up to kMaxMatVecMatrices outputs of the same type, or of two types where there is
// a kernel for both.
const char* MatMul::RunMatVec(const float* x, int64_t x_stride, int n, bool already_quantized,
                              std::span<const MatMulOutput> outputs, cudaStream_t stream) {
  const int64_t cols = outputs[0].cols;
  const QuantizedRows rows = already_quantized ? Input(n, cols) : PrepareQuantized(n, cols);
  bool quantized = already_quantized;
  for (const MatMulOutput& output : outputs) {
    const bool plain = IsFloatMatVecType(output.type);
    if (plain && x == nullptr) return "F32, F16 and BF16 weights need activations in float32";
    if (!plain && !std::exchange(quantized, true)) QuantizeRows(x, x_stride, n, rows, stream);
  }
  const std::vector<SameType> launches = LaunchesOf(outputs);
  if (launches.size() == 2 &&
      MixedMatVec(launches[0].matrices, launches[0].type, launches[1].matrices, launches[1].type,
                  cols, rows, n, stream)) {
    return nullptr;
  }
  for (const auto& [type, matrices] : launches) {
    if (IsFloatMatVecType(type)) {
      FloatMatVec(type, matrices, cols, x, x_stride, n, stream);
    } else {
      QuantizedMatVec(type, matrices, cols, rows, n, stream);
    }
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

void MatMul::RunOfNorm(const NormToCome& norm, int n, std::span<const MatMulOutput> outputs,
                       cudaStream_t stream) {
  for (const auto& [type, matrices] : LaunchesOf(outputs)) {
    FloatMatVecOfNorm(matrices, outputs[0].cols, norm, n, stream);
  }
}

bool MatMul::CanRunOfNorm(int n, std::span<const MatMulOutput> outputs) const {
  constexpr int64_t kMostRows = 1024;
  int64_t rows = 0;
  for (const MatMulOutput& output : outputs) {
    if (output.type != quant::TensorType::kF32 || output.cols != outputs[0].cols) return false;
    rows += output.rows;
  }
  return IsQuantized(n) && rows <= kMostRows;
}

bool MatMul::RunGated(const MatMulOutput& gate, const MatMulOutput& up, cudaStream_t stream) {
  if (!IsQuantized(1) || gate.type != up.type || gate.rows != up.rows || gate.rows > max_cols_ ||
      gate.bias != nullptr || up.bias != nullptr || gate.scale != nullptr || up.scale != nullptr) {
    return false;
  }
  QuantizedRows out = quantized_[1 - current_];
  out.columns = gate.rows;
  const bool done = GateMatVec(gate.type, {gate.weight, up.weight, gate.rows, gate.y, out},
                               Input(1, gate.cols), stream);
  if (!done) return false;
  current_ = 1 - current_;
  deferred_ = false;
  return true;
}

bool MatMul::CanDeferNorm(int n, int64_t cols) const {
  return IsQuantized(n) && cols % 32 == 0 && cols <= std::min(max_cols_, kMostDeferredColumns);
}

void MatMul::RunDeferredNorm(float* residual, int64_t residual_stride, const float* x,
                             int64_t x_stride, int n, int64_t cols, const float* norm, float eps,
                             cudaStream_t stream) {
  const QuantizedRows rows = PrepareQuantized(n, cols);
  float* const factors = factors_[current_];
  if (n == 1) {
    AddDeferredNorm(residual, x, norm, rows, factors, stream);
  } else {
    AddDeferredNorms(residual, residual_stride, x, x_stride, norm, eps, n, rows, factors, stream);
  }
  deferred_ = true;
  deferred_eps_ = eps;
}

bool MatMul::CanRunNormed(const MatMulOutput& product) const {
  return CanDeferNorm(1, product.rows) && product.scale == nullptr &&
         CanMultiplyNormed(product.type, product.weight, product.rows, product.cols);
}

void MatMul::RunNormed(const MatMulOutput& product, float* residual, const float* norm, float eps,
                       cudaStream_t stream) {
  const int next = 1 - current_;
  QuantizedRows out = quantized_[next];
  out.columns = product.rows;
  MultiplyNormed(product.type,
                 {product.weight, product.rows, product.bias, residual, norm, out, factors_[next]},
                 Input(1, product.cols), stream);
  current_ = next;
  deferred_ = true;
  deferred_eps_ = eps;
}

}  // namespace gguf_offload::cuda
