#include "kernels/quant/dequantize_cuda.h"
#include "kernels/quant/dequantize_tile.cuh"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kWarps = 4;  // of a thread block; each has a tile

template <quant::TensorType kType, typename T>
__global__ void __launch_bounds__(32 * kWarps)
    DequantizeBlocks(const uint8_t* __restrict__ blocks, int64_t groups, T* __restrict__ out) {
  using Tile = DequantizeTile<kType, T>;
  __shared__ Tile shared[kWarps];
  const int warp = threadIdx.x / 32;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t left = groups - tile * kTileGroups;
  if (left <= 0) return;
  DequantizeByWarp<kType, T>(blocks + tile * Tile::kBytes,
                             static_cast<int>(min(left, static_cast<int64_t>(kTileGroups))),
                             out + tile * kTileElements, shared[warp]);
}

constexpr int kPlainThreads = 256;
constexpr int kPlainElements = 8;  // of a thread

template <quant::TensorType kType, typename T>
__global__ void __launch_bounds__(kPlainThreads)
    ConvertNumbers(const uint8_t* __restrict__ numbers, int64_t elements, T* __restrict__ out) {
  using Stored = typename PlainNumber<kType>::Stored;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x) * kPlainElements;
  const Stored* source = reinterpret_cast<const Stored*>(numbers) + first;
  if (elements - first < kPlainElements) {
    for (int i = 0; i < elements - first; ++i) {
      out[first + i] = SaturatedTo<T>(PlainNumber<kType>::ToFloat(source[i]));
    }
    return;
  }
  // Words of eight bytes: more than that the source need not be aligned to.
  constexpr int kWords = kPlainElements * sizeof(Stored) / 8;
  alignas(8) Stored stored[kPlainElements];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    reinterpret_cast<uint2*>(stored)[i] = __ldcs(reinterpret_cast<const uint2*>(source) + i);
  }
  float values[kPlainElements];
#pragma unroll
  for (int i = 0; i < kPlainElements; ++i) values[i] = PlainNumber<kType>::ToFloat(stored[i]);
  constexpr int kPieceElements = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kPlainElements; i += kPieceElements) {
    *reinterpret_cast<uint4*>(out + first + i) = Pack16Bytes<T>(values + i);
  }
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
void Dequantize(quant::TensorType type, const uint8_t* blocks, int64_t elements, T* out,
                cudaStream_t stream) {
  if (elements <= 0) return;
  quant::VisitQuantizedType(type,
                            [&]<typename Type>(Type) {
                              const auto grid =
                                  static_cast<unsigned>(CeilDiv(elements, kTileElements * kWarps));
                              DequantizeBlocks<Type::kType, T>
                                  <<<grid, 32 * kWarps, 0, stream>>>(blocks, elements / 32, out);
                            }) ||
      quant::VisitPlainType(type, [&]<typename Type>(Type) {
        const auto grid = static_cast<unsigned>(CeilDiv(elements, kPlainElements * kPlainThreads));
        ConvertNumbers<Type::kType, T><<<grid, kPlainThreads, 0, stream>>>(blocks, elements, out);
      });
}

}  // namespace

void DequantizeToHalf(quant::TensorType type, const uint8_t* blocks, int64_t elements, __half* out,
                      cudaStream_t stream) {
  Dequantize(type, blocks, elements, out, stream);
}

void DequantizeToFloat(quant::TensorType type, const uint8_t* blocks, int64_t elements, float* out,
                       cudaStream_t stream) {
  Dequantize(type, blocks, elements, out, stream);
}

}  // namespace gguf_offload::cuda
