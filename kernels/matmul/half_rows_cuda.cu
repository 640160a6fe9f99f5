#include <algorithm>
#include <cstdint>

#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/matmul/plain_numbers.cuh"
#include "kernels/matmul/quantized_rows.cuh"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kMaxGridY = 65535;

unsigned BlocksFor(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// The largest of the block's `bits`, in every thread.
__device__ uint32_t BlockMax(uint32_t bits) {
  __shared__ uint32_t of_warp[kWarps];
  bits = LargestOverWarp(bits);
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bits;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) bits = max(bits, of_warp[i]);
  return bits;
}

// The power of two to divide by a row whose largest magnitude has these bits.
__device__ float HalfScale(uint32_t largest_bits) {
  const float largest = __uint_as_float(largest_bits);
  const bool fits = largest == 0 || (largest >= 0x1p-10f && largest <= 32768.0f);
  const int exponent = static_cast<int>(largest_bits >> 23) - 127;
  if (fits || exponent == 128) return 1.0f;
  // To 2^14, which leaves the small numbers of the row the most room.
  return __uint_as_float(static_cast<uint32_t>(max(exponent - 14, -126) + 127) << 23);
}

// A block a row.
__global__ void __launch_bounds__(kThreads)
    RowsToHalfKernel(const float* x, int64_t x_stride, int n, int64_t cols, __half* out,
                     float* row_scale) {
  const int64_t padded = (cols + 7) / 8 * 8;
  for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
    const float* row = x + i * x_stride;
    uint32_t bits = 0;
    for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
      bits = max(bits, __float_as_uint(fabsf(row[c])));
    }
    const float scale = HalfScale(BlockMax(bits));
    const float inverse = 1.0f / scale;
    __half2* pairs = reinterpret_cast<__half2*>(out + i * padded);
    for (int64_t c = 2 * threadIdx.x; c < padded; c += 2 * kThreads) {
      const float first = c < cols ? row[c] * inverse : 0.0f;
      const float second = c + 1 < cols ? row[c + 1] * inverse : 0.0f;
      pairs[c / 2] = __floats2half2_rn(first, second);
    }
    if (threadIdx.x == 0) row_scale[i] = scale;
  }
}

__device__ __forceinline__ __half ToHalf(float value) {
  if (fabsf(value) > 65504.0f && !isinf(value)) value = copysignf(65504.0f, value);
  return __float2half_rn(value);
}

// Columns in the grid's x, rows in its y.
template <class Number>
__global__ void __launch_bounds__(kThreads)
    PlainToHalfKernel(const Number* weight, int64_t rows, int64_t cols, __half* out) {
  const int64_t padded = (cols + 7) / 8 * 8;
  const int64_t c = 2 * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  if (c >= padded) return;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const Number* row = weight + r * cols;
    const __half first = c < cols ? ToHalf(ToFloat(row[c])) : __half(0.0f);
    const __half second = c + 1 < cols ? ToHalf(ToFloat(row[c + 1])) : __half(0.0f);
    reinterpret_cast<__half2*>(out + r * padded)[c / 2] = __halves2half2(first, second);
  }
}

template <class Number>
void LaunchPlainToHalf(const uint8_t* weight, int64_t rows, int64_t cols, __half* out,
                       cudaStream_t stream) {
  const dim3 grid(BlocksFor(PadHalfColumns(cols), 2 * kThreads),
                  static_cast<unsigned>(std::min<int64_t>(rows, kMaxGridY)));
  PlainToHalfKernel<<<grid, kThreads, 0, stream>>>(reinterpret_cast<const Number*>(weight), rows,
                                                   cols, out);
}

// Columns in the grid's x, activations in its y.
__global__ void __launch_bounds__(kThreads)
    ScaleRowsAddBiasKernel(const float* row_scale, const float* matrix_scale, const float* bias,
                           float* y, int64_t y_stride, int n, int64_t rows) {
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    const float scale = (row_scale == nullptr ? 1.0f : row_scale[i]) *
                        (matrix_scale == nullptr ? 1.0f : *matrix_scale);
    if (scale == 1.0f && bias == nullptr) continue;
    const int64_t first = int64_t{blockIdx.x} * 4 * kThreads + threadIdx.x;
    for (int64_t r = first; r < min(first + 4 * kThreads, rows); r += kThreads) {
      float& value = y[i * y_stride + r];
      value = fmaf(value, scale, bias == nullptr ? 0.0f : bias[r]);
    }
  }
}

}  // namespace

void RowsToHalf(const float* x, int64_t x_stride, int n, int64_t cols, __half* out,
                float* row_scale, cudaStream_t stream) {
  if (n <= 0) return;
  RowsToHalfKernel<<<n, kThreads, 0, stream>>>(x, x_stride, n, cols, out, row_scale);
}

void PlainToHalf(TensorType type, const uint8_t* weight, int64_t rows, int64_t cols, __half* out,
                 cudaStream_t stream) {
  if (rows <= 0 || cols <= 0) return;
  switch (type) {
    case TensorType::kF32:
      LaunchPlainToHalf<F32Number>(weight, rows, cols, out, stream);
      break;
    case TensorType::kF16:
      LaunchPlainToHalf<F16Number>(weight, rows, cols, out, stream);
      break;
    case TensorType::kBF16:
      LaunchPlainToHalf<BF16Number>(weight, rows, cols, out, stream);
      break;
    default:
      break;
  }
}

void ScaleRowsAddBias(const float* row_scale, const float* scale, const float* bias, float* y,
                      int64_t y_stride, int n, int64_t rows, cudaStream_t stream) {
  if (n <= 0 || rows <= 0) return;
  if (row_scale == nullptr && scale == nullptr && bias == nullptr) return;
  const dim3 grid(BlocksFor(rows, 4 * kThreads), std::min(static_cast<unsigned>(n), kMaxGridY));
  ScaleRowsAddBiasKernel<<<grid, kThreads, 0, stream>>>(row_scale, scale, bias, y, y_stride, n,
                                                        rows);
}

}  // namespace gguf_offload::cuda
