#include "kernels/matmul/head_matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/matmul/aligned_buffer.h"
#include "kernels/matmul/tile_kernels.h"
#include "kernels/matmul/weighted_rows.h"
#include "kernels/quant/dequantize.h"

namespace gguf_offload {
namespace {

// Rows of a task of Run, and columns of one of RunTransposed (a multiple of every block).
constexpr int64_t kTaskRows = 128;
constexpr int64_t kTaskColumns = 256;

int64_t Tasks(int64_t size, int64_t of_task) { return (size + of_task - 1) / of_task; }

}  // namespace

struct HeadMatMul::ThreadMemory {
  std::unique_ptr<TileScratch> scratch = std::make_unique<TileScratch>();
  AlignedBuffer<float> x;          // (n, cols rounded up to 16): x, if cols is no multiple
  AlignedBuffer<float> sums;       // (n, kTileRows)
  AlignedBuffer<float> lane_sums;  // (n, kFloatRows, 16)
  AlignedBuffer<float> rows;       // (rows, kTaskColumns): expanded weights
};

HeadMatMul::HeadMatMul(ThreadPool& pool) : pool_(pool), memory_(pool.threads()) {}

HeadMatMul::~HeadMatMul() = default;

void HeadMatMul::Run(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y) {
  if (n == 0 || weight.rows == 0) return;
  const int64_t tasks = Tasks(weight.rows, kTaskRows);
  pool_.ParallelFor(weight.heads * tasks, [&](size_t task, int thread) {
    RunRows(weight, x, n, y, static_cast<int>(task / tasks), task % tasks * kTaskRows,
            memory_[thread]);
  });
}

void HeadMatMul::RunRows(const HeadMatrices& weight, const HeadInput& x, int n, const HeadOutput& y,
                         int head, int64_t first_row, ThreadMemory& memory) {
  const TileKernels& kernels = FindTileKernels();
  const float* head_x = x.data + head * x.head_stride;
  int64_t x_stride = x.row_stride;
  if (weight.cols % 16 != 0) {
    x_stride = (weight.cols + 15) / 16 * 16;
    memory.x.Reserve(static_cast<size_t>(n) * x_stride);
    for (int i = 0; i < n; ++i) {
      float* row = memory.x.data() + i * x_stride;
      std::memcpy(row, head_x + i * x.row_stride, weight.cols * sizeof(float));
      std::fill(row + weight.cols, row + x_stride, 0.0f);
    }
    head_x = memory.x.data();
  }
  memory.sums.Reserve(static_cast<size_t>(n) * kTileRows);
  memory.lane_sums.Reserve(static_cast<size_t>(n) * kFloatRows * 16);
  const size_t row_bytes = quant::RowBytes(quant::FormatOf(weight.type), weight.cols);
  const int64_t end = std::min(weight.rows, first_row + kTaskRows);
  for (int64_t row = first_row; row < end; row += kTileRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kTileRows, end - row));
    const WeightTile tile = {weight.type,
                             weight.data + head * weight.head_bytes + row * row_bytes,
                             row_bytes,
                             rows,
                             static_cast<size_t>(weight.cols),
                             (weight.rows - row - rows) * row_bytes};
    kernels.float_tile(tile, head_x, x_stride, n, *memory.scratch, memory.lane_sums.data(),
                       memory.sums.data());
    for (int i = 0; i < n; ++i) {
      std::memcpy(y.data + i * y.row_stride + head * y.head_stride + row,
                  memory.sums.data() + i * kTileRows, rows * sizeof(float));
    }
  }
}

void HeadMatMul::RunTransposed(const HeadMatrices& weight, const HeadInput& x, int n,
                               const HeadOutput& y) {
  if (n == 0 || weight.cols == 0) return;
  const int64_t tasks = Tasks(weight.cols, kTaskColumns);
  pool_.ParallelFor(weight.heads * tasks, [&](size_t task, int thread) {
    RunColumns(weight, x, n, y, static_cast<int>(task / tasks), task % tasks * kTaskColumns,
               memory_[thread]);
  });
}

void HeadMatMul::RunColumns(const HeadMatrices& weight, const HeadInput& x, int n,
                            const HeadOutput& y, int head, int64_t first_column,
                            ThreadMemory& memory) {
  const quant::Format& format = quant::FormatOf(weight.type);
  const size_t row_bytes = quant::RowBytes(format, weight.cols);
  const size_t columns = std::min(kTaskColumns, weight.cols - first_column);
  const size_t padded = WeightedRowsPadded(columns);
  memory.rows.Reserve(static_cast<size_t>(weight.rows) * padded);
  const uint8_t* blocks =
      weight.data + head * weight.head_bytes + quant::RowBytes(format, first_column);
  for (int64_t row = 0; row < weight.rows; ++row) {
    float* expanded = memory.rows.data() + row * padded;
    quant::Dequantize(weight.type, blocks + row * row_bytes, columns, expanded);
    std::fill(expanded + columns, expanded + padded, 0.0f);
  }
  AddWeightedRows(memory.rows.data(), static_cast<size_t>(weight.rows), columns,
                  x.data + head * x.head_stride, x.row_stride, n,
                  y.data + head * y.head_stride + first_column, y.row_stride);
}

}  // namespace gguf_offload
