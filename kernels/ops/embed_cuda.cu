#include "kernels/ops/dependent_launch.cuh"
#include "kernels/ops/embed_cuda.h"
#include "kernels/quant/dequantize_tile.cuh"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kWarps = 4;  // of a thread block; each has a tile of a row
constexpr int kPlainThreads = 256;

struct Rows {
  const uint8_t* table;   // (vocab, columns)
  const int32_t* tokens;  // (n)
  int n;
  int64_t columns;
  float* out;  // (n, columns), rows out_stride apart
  int64_t out_stride;
};

template <quant::TensorType kType>
__global__ void __launch_bounds__(32 * kWarps) EmbedBlocks(Rows rows, int tiles_per_row) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  using Tile = DequantizeTile<kType, float>;
  __shared__ Tile shared[kWarps];
  const int warp = threadIdx.x / 32;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t row = task / tiles_per_row;
  if (row >= rows.n) return;
  const int tile = static_cast<int>(task % tiles_per_row);
  const int64_t row_bytes =
      rows.columns / Tile::Decoder::kBlockElements * Tile::Decoder::kBlockBytes;
  const int64_t left = rows.columns / 32 - static_cast<int64_t>(tile) * kTileGroups;
  DequantizeByWarp<kType, float>(
      rows.table + rows.tokens[row] * row_bytes + static_cast<int64_t>(tile) * Tile::kBytes,
      static_cast<int>(min(left, static_cast<int64_t>(kTileGroups))),
      rows.out + row * rows.out_stride + static_cast<int64_t>(tile) * kTileElements, shared[warp]);
}

// A number a thread: rows need not be aligned to more than that.
template <quant::TensorType kType>
__global__ void __launch_bounds__(kPlainThreads) EmbedNumbers(Rows rows, int64_t chunks_per_row) {
  LetLaterKernelsBegin();
  AwaitEarlierKernels();
  using Stored = typename PlainNumber<kType>::Stored;
  const int64_t row = blockIdx.x / chunks_per_row;
  const int64_t column = blockIdx.x % chunks_per_row * kPlainThreads + threadIdx.x;
  if (column >= rows.columns) return;
  const Stored* numbers = reinterpret_cast<const Stored*>(rows.table);
  rows.out[row * rows.out_stride + column] =
      PlainNumber<kType>::ToFloat(numbers[rows.tokens[row] * rows.columns + column]);
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void EmbedRows(quant::TensorType type, const uint8_t* table, const int32_t* tokens, int n,
               int64_t columns, float* out, int64_t out_stride, cudaStream_t stream) {
  if (n <= 0 || columns <= 0) return;
  const Rows rows = {table, tokens, n, columns, out, out_stride};
  quant::VisitQuantizedType(type,
                            [&]<typename Type>(Type) {
                              const int64_t tiles = CeilDiv(columns, kTileElements);
                              const auto grid = static_cast<unsigned>(CeilDiv(n * tiles, kWarps));
                              LaunchDependent(EmbedBlocks<Type::kType>, grid, 32 * kWarps, 0,
                                              stream, rows, static_cast<int>(tiles));
                            }) ||
      quant::VisitPlainType(type, [&]<typename Type>(Type) {
        const int64_t chunks = CeilDiv(columns, kPlainThreads);
        LaunchDependent(EmbedNumbers<Type::kType>, static_cast<unsigned>(n * chunks), kPlainThreads,
                        0, stream, rows, chunks);
      });
}

}  // namespace gguf_offload::cuda
