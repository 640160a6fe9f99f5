#include <algorithm>

#include "kernels/ops/block_sum.cuh"
#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/norm_cuda.h"
#include "kernels/ops/quantize_four.cuh"
#include "kernels/ops/vector_access.h"

namespace gguf_offload::cuda {
namespace {

// The tensors of one launch; `residual` is null unless x is to be added to it.
struct NormArguments {
  float* residual;
  int64_t residual_stride;
  const float* x;
  int64_t x_stride;
  const float* weight;
  float eps;
  int cols;
  float* out;
  int64_t out_stride;
  QuantizedRows quantized;
};

__device__ __forceinline__ float4 Load4(const float* row, int vector) {
  return reinterpret_cast<const float4*>(row)[vector];
}

__device__ __forceinline__ void Store4(float* row, int vector, float4 values) {
  reinterpret_cast<float4*>(row)[vector] = values;
}

__device__ __forceinline__ float4 Add4(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// A block normalizes a row that it keeps in registers, four elements times kVectors a thread, so
// that memory is waited for once. The weights are asked for before anything else.
template <int kVectors, bool kAdd>
__device__ __forceinline__ void NormRow(const NormArguments& a, int64_t row) {
  __shared__ float warp_sums[32];
  const int vectors = a.cols / 4;
  float4 values[kVectors], weights[kVectors];
  LetLaterKernelsBegin();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int vector = threadIdx.x + i * blockDim.x;
    weights[i] = make_float4(1, 1, 1, 1);
    if (vector < vectors && a.weight != nullptr) weights[i] = Load4(a.weight, vector);
  }
  AwaitEarlierKernels();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int vector = threadIdx.x + i * blockDim.x;
    values[i] = make_float4(0, 0, 0, 0);
    if (vector >= vectors) continue;
    values[i] = Load4(a.x + row * a.x_stride, vector);
    if (kAdd) values[i] = Add4(Load4(a.residual + row * a.residual_stride, vector), values[i]);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const float4 v = values[i];
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    const int vector = threadIdx.x + i * blockDim.x;
    if (kAdd && vector < vectors) Store4(a.residual + row * a.residual_stride, vector, v);
  }
  sum = SumOverBlock(sum, warp_sums);
  const float scale = 1.0f / sqrtf(sum / a.cols + a.eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int vector = threadIdx.x + i * blockDim.x;
    const bool valid = vector < vectors;
    const float4 v = values[i], w = weights[i];
    const float4 result =
        make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    if (valid && a.out != nullptr) Store4(a.out + row * a.out_stride, vector, result);
    if (a.quantized.q != nullptr) QuantizeFour(result, valid, row, vector, a.quantized);
  }
}

template <int kVectors>
inline constexpr int kMostThreads = kVectors <= 2 ? 1024 : 512;

template <int kVectors, bool kAdd>
__global__ void __launch_bounds__(kMostThreads<kVectors>)
    NormKernel(const __grid_constant__ NormArguments a) {
  NormRow<kVectors, kAdd>(a, blockIdx.x);
}

// Two matrices with the same number of rows. Grid: (rows, 2).
__global__ void __launch_bounds__(kMostThreads<1>)
    NormBothKernel(const __grid_constant__ NormArguments a,
                   const __grid_constant__ NormArguments b) {
  NormRow<1, false>(blockIdx.y == 0 ? a : b, blockIdx.x);
}

// Any number of columns and any alignment: element by element, reading the row twice. A thread
// reads again only what it wrote itself.
__global__ void __launch_bounds__(1024) AnyNormKernel(const __grid_constant__ NormArguments a) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  __shared__ float warp_sums[32];
  const int64_t row = blockIdx.x;
  const float* values =
      a.residual != nullptr ? a.residual + row * a.residual_stride : a.x + row * a.x_stride;
  float sum = 0;
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) {
    float value = values[i];
    if (a.residual != nullptr) {
      value += a.x[row * a.x_stride + i];
      a.residual[row * a.residual_stride + i] = value;
    }
    sum += value * value;
  }
  sum = SumOverBlock(sum, warp_sums);
  const float scale = 1.0f / sqrtf(sum / a.cols + a.eps);
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) {
    const float result = values[i] * scale * (a.weight != nullptr ? a.weight[i] : 1.0f);
    if (a.out != nullptr) a.out[row * a.out_stride + i] = result;
    // Whole warps get here: with 8-bit output the columns are a multiple of 32.
    if (a.quantized.q != nullptr) QuantizeGroup(result, row, i / 32, a.quantized);
  }
}

bool IsAligned(const NormArguments& a) {
  return a.cols % 4 == 0 && SixteenByteRows(a.residual, a.residual_stride) &&
         SixteenByteRows(a.x, a.x_stride) && SixteenByteRows(a.weight) &&
         SixteenByteRows(a.out, a.out_stride);
}

template <bool kAdd>
void Launch(const NormArguments& a, int rows, cudaStream_t stream) {
  if (rows <= 0 || a.cols <= 0) return;
  const bool aligned = IsAligned(a);
  // A few rows: as many threads as there is work, for the shortest time. Many: four vectors a
  // thread, so that more rows fit a multiprocessor and fewer warps meet at each barrier.
  const int vectors = a.cols / 4;
  const auto threads = [&](int vectors_a_thread) {
    return ((vectors + vectors_a_thread - 1) / vectors_a_thread + 31) / 32 * 32;
  };
  if (!aligned || vectors > 4096) {
    LaunchDependent(AnyNormKernel, rows, std::min(1024, (a.cols + 31) / 32 * 32), 0, stream, a);
  } else if (rows < 128 && vectors <= 1024) {
    LaunchDependent(NormKernel<1, kAdd>, rows, threads(1), 0, stream, a);
  } else if (rows < 128 && vectors <= 2048) {
    LaunchDependent(NormKernel<2, kAdd>, rows, threads(2), 0, stream, a);
  } else if (vectors <= 2048) {
    LaunchDependent(NormKernel<4, kAdd>, rows, threads(4), 0, stream, a);
  } else {
    LaunchDependent(NormKernel<8, kAdd>, rows, threads(8), 0, stream, a);
  }
}

__global__ void AddKernel(float* residual, int64_t residual_stride, const float* x,
                          int64_t x_stride, int vectors) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int vector = blockIdx.x * blockDim.x + threadIdx.x;
  if (vector >= vectors) return;
  residual += blockIdx.y * residual_stride;
  Store4(residual, vector, Add4(Load4(residual, vector), Load4(x + blockIdx.y * x_stride, vector)));
}

__global__ void AnyAddKernel(float* residual, int64_t residual_stride, const float* x,
                             int64_t x_stride, int cols) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < cols) residual[blockIdx.y * residual_stride + i] += x[blockIdx.y * x_stride + i];
}

// A lane's element of a group: quantizes what the weight w makes of it and returns the group's sum
// of squares.
__device__ __forceinline__ float DeferGroup(float value, float w, int64_t row, int64_t group,
                                            const QuantizedRows& quantized) {
  QuantizeGroup(value * w, row, group, quantized);
  return SumOverWarp(value * value);
}

// A single row. A warp a group.
__global__ void __launch_bounds__(128)
    DeferredNormKernel(float* residual, const float* x, const float* weight,
                       QuantizedRows quantized, float* squares) {
  LetLaterKernelsBegin();
  const int64_t i = int64_t{blockIdx.x} * 128 + threadIdx.x;
  const bool valid = i < quantized.columns;
  const float w = valid && weight != nullptr ? weight[i] : 1.0f;
  AwaitEarlierKernels();
  if (!valid) return;
  float value = residual[i];
  if (x != nullptr) {
    value += x[i];
    residual[i] = value;
  }
  const float square = DeferGroup(value, w, 0, i / 32, quantized);
  if (threadIdx.x % 32 == 0) squares[i / 32] = square;
}

// A block a row, a warp a group at a time. The row's factor is made as products make it of a single
// row's squares, to the same bits.
constexpr int kMostDeferredThreads = 512;

__global__ void __launch_bounds__(kMostDeferredThreads)
    DeferredNormRowsKernel(float* residual, int64_t residual_stride, const float* x,
                           int64_t x_stride, const float* weight, float eps,
                           QuantizedRows quantized, float* factors) {
  LetLaterKernelsBegin();
  extern __shared__ float squares[];
  AwaitEarlierKernels();
  const int64_t row = blockIdx.x;
  residual += row * residual_stride;
  if (x != nullptr) x += row * x_stride;
  // Memory is waited for once for several groups.
  constexpr int kAtOnce = 8;
  const auto columns = static_cast<int>(quantized.columns), step = static_cast<int>(blockDim.x);
  for (int first = threadIdx.x; first < columns; first += kAtOnce * step) {
    float values[kAtOnce], weights[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * step;
      if (i >= columns) break;
      values[j] = residual[i];
      if (x != nullptr) values[j] += x[i];
      weights[j] = weight != nullptr ? weight[i] : 1.0f;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * step;
      if (i >= columns) break;
      if (x != nullptr) residual[i] = values[j];
      const float square = DeferGroup(values[j], weights[j], row, i / 32, quantized);
      if (threadIdx.x % 32 == 0) squares[i / 32] = square;
    }
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const float sum = SumSquares(squares, quantized.columns / 32);
  const float factor = FactorOf(sum, quantized.columns, eps);
  if (threadIdx.x == 0) factors[row] = factor;
}

}  // namespace

void RmsNorm(const float* x, int64_t x_stride, const float* weight, float eps, int rows, int cols,
             float* out, int64_t out_stride, const QuantizedRows& quantized, cudaStream_t stream) {
  Launch<false>({nullptr, 0, x, x_stride, weight, eps, cols, out, out_stride, quantized}, rows,
                stream);
}

void RmsNormBoth(const NormedRows& first, const NormedRows& second, float eps, int rows,
                 const QuantizedRows& quantized, cudaStream_t stream) {
  const auto arguments = [&](const NormedRows& of, const QuantizedRows& in_8_bits) {
    return NormArguments{nullptr, 0,       of.x, of.stride, of.weight,
                         eps,     of.cols, of.x, of.stride, in_8_bits};
  };
  const NormArguments a = arguments(first, quantized), b = arguments(second, {});
  const int vectors = std::max(a.cols, b.cols) / 4;
  // Where each would be a launch of this kind, to the same bits.
  if (rows <= 0 || rows >= 128 || vectors > kMostThreads<1> || !IsAligned(a) || !IsAligned(b)) {
    Launch<false>(a, rows, stream);
    return Launch<false>(b, rows, stream);
  }
  LaunchDependent(NormBothKernel, dim3(rows, 2), (vectors + 31) / 32 * 32, 0, stream, a, b);
}

void AddRmsNorm(float* residual, int64_t residual_stride, const float* x, int64_t x_stride,
                const float* weight, float eps, int rows, int cols, float* out, int64_t out_stride,
                const QuantizedRows& quantized, cudaStream_t stream) {
  Launch<true>(
      {residual, residual_stride, x, x_stride, weight, eps, cols, out, out_stride, quantized}, rows,
      stream);
}

void AddDeferredNorm(float* residual, const float* x, const float* weight,
                     const QuantizedRows& quantized, float* squares, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((quantized.columns + 127) / 128);
  LaunchDependent(DeferredNormKernel, blocks, 128, 0, stream, residual, x, weight, quantized,
                  squares);
}

void AddDeferredNorms(float* residual, int64_t residual_stride, const float* x, int64_t x_stride,
                      const float* weight, float eps, int rows, const QuantizedRows& quantized,
                      float* factors, cudaStream_t stream) {
  if (rows <= 0) return;
  const auto threads =
      static_cast<unsigned>(std::min<int64_t>(quantized.columns, kMostDeferredThreads));
  LaunchDependent(DeferredNormRowsKernel, rows, threads, quantized.columns / 32 * sizeof(float),
                  stream, residual, residual_stride, x, x_stride, weight, eps, quantized, factors);
}

void Add(float* residual, int64_t residual_stride, const float* x, int64_t x_stride, int rows,
         int cols, cudaStream_t stream) {
  if (rows <= 0 || cols <= 0) return;
  const unsigned n = rows;
  if (cols % 4 == 0 && SixteenByteRows(residual, residual_stride) && SixteenByteRows(x, x_stride)) {
    const int vectors = cols / 4;
    LaunchDependent(AddKernel, dim3((vectors + 127) / 128, n), 128, 0, stream, residual,
                    residual_stride, x, x_stride, vectors);
  } else {
    LaunchDependent(AnyAddKernel, dim3((cols + 255) / 256, n), 256, 0, stream, residual,
                    residual_stride, x, x_stride, cols);
  }
}

}  // namespace gguf_offload::cuda
