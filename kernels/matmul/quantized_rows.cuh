// Activations in 8 bits, the right-hand side of the quantized products on the GPU.
//
// Each row is cut into groups of 32 elements with a scale of their own, like the weights' groups.
// A kernel that produces activations (a norm, a gated unit) may write them in this form itself by
// calling QuantizeGroup, which saves the product a pass over them.
#ifndef KERNELS_MATMUL_QUANTIZED_ROWS_CUH_
#define KERNELS_MATMUL_QUANTIZED_ROWS_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#ifdef __CUDACC__
#include "kernels/ops/block_sum.cuh"
#endif

namespace gguf_offload::cuda {

// Device memory that somebody else owns; passed to kernels by value.
struct QuantizedRows {
  int8_t* q = nullptr;      // (n, columns), 16-byte aligned
  float2* scale = nullptr;  // (n, columns / 32), 16-byte aligned; .x: value = .x * q;
                            // .y: .x * sum of the group's q
  int64_t columns = 0;      // a multiple of 32

  // Where one of these is not null, rows are yet to be divided by the root mean square that they
  // had before they were multiplied with a norm's weights, which products do in the end. Of a
  // single row: (columns / 32), the sums of its squares, group by group (RowFactor).
  const float* squares = nullptr;
  float eps = 0;
  // Of several rows: (n), what products with each are to be multiplied by.
  const float* factors = nullptr;

  // Those from row `first` on; none of none.
  QuantizedRows Rows(int64_t first) const {
    if (q == nullptr) return *this;
    return {q + first * columns, scale + first * (columns / 32), columns};
  }
};

#ifdef __CUDACC__

// What products with a row are to be multiplied by, in two steps, so that memory is not waited for:
// a lane's part of the squares' sum, and the factor of a whole warp's parts.
__device__ __forceinline__ float SumSquares(const float* squares, int64_t groups) {
  float sum = 0;
  for (int64_t i = threadIdx.x % 32; i < groups; i += 32) sum += squares[i];
  return sum;
}
__device__ __forceinline__ float FactorOf(float squares, int64_t columns, float eps) {
  return 1.0f / sqrtf(SumOverWarp(squares) / columns + eps);
}

// The same for the only row of x.
__device__ __forceinline__ float LoadSquares(const QuantizedRows& x) {
  return x.squares == nullptr ? 0.0f : SumSquares(x.squares, x.columns / 32);
}
__device__ __forceinline__ float RowFactor(const QuantizedRows& x, float squares) {
  return x.squares == nullptr ? 1.0f : FactorOf(squares, x.columns, x.eps);
}

// What products with each of x's rows are to be multiplied by. `squares`: LoadSquares, where there
// is only one.
template <int kRows>
class ColumnFactors {
 public:
  __device__ __forceinline__ ColumnFactors(const QuantizedRows& x, float squares)
      : factor_(kRows == 1 ? RowFactor(x, squares) : 1.0f), factors_(x.factors) {}
  __device__ __forceinline__ float operator()(int row) const {
    return kRows == 1 || factors_ == nullptr ? factor_ : factors_[row];
  }

 private:
  const float factor_;
  const float* const factors_;
};

// Quantizes elements [32 * group, 32 * group + 32) of row `row`: scale = largest magnitude / 127,
// round to nearest. A whole warp calls it, lane i with `value` of element i; the block's x
// dimension must be a multiple of 32. A NaN or infinity in the group makes the group's scale one,
// so that it is not lost on the way to the result.
__device__ __forceinline__ void QuantizeGroup(float value, int64_t row, int64_t group,
                                              const QuantizedRows& out) {
  // Magnitudes order like their bits, with NaN above all.
  const float largest = __uint_as_float(LargestOverWarp(__float_as_uint(fabsf(value))));
  const float scale = largest * (1.0f / 127.0f);
  // Below the smallest normal number the inverse may overflow; such a group is as good as zero.
  const float inverse = largest >= 1e-35f ? 127.0f / largest : 0.0f;
  const int q = max(-127, min(127, __float2int_rn(value * inverse)));
  const int sum = SumOverWarp(q);
  const int lane = threadIdx.x % 32;
  out.q[row * out.columns + group * 32 + lane] = static_cast<int8_t>(q);
  if (lane == 0) {
    out.scale[row * (out.columns / 32) + group] = make_float2(scale, scale * sum);
  }
}

#endif  // __CUDACC__

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MATMUL_QUANTIZED_ROWS_CUH_
