#include "computed/placement/transfer.h"

#include <algorithm>
#include <tuple>

#include "kernels/quant/format.h"

namespace gguf_offload {
namespace {

constexpr uint64_t kAlignment = 256;
// A gap of so many bytes is cheaper to move than to leave out.
constexpr uint64_t kMaxGap = 16 << 10;

uint64_t RowBytes(const ModelTensor& tensor) {
  return quant::RowBytes(quant::FormatOf(tensor.type), tensor.columns);
}

}  // namespace

Transfer PlanTransfer(std::vector<TensorRows> tensors) {
  const auto offset_of = [](const TensorRows& rows) {
    return rows.tensor->offset + rows.first_row * RowBytes(*rows.tensor);
  };
  std::sort(tensors.begin(), tensors.end(), [&](const TensorRows& a, const TensorRows& b) {
    return std::tuple(a.tensor->shard, offset_of(a)) < std::tuple(b.tensor->shard, offset_of(b));
  });
  Transfer transfer;
  for (const TensorRows& rows : tensors) {
    const ModelTensor& tensor = *rows.tensor;
    const uint64_t offset = offset_of(rows);
    const uint64_t bytes = rows.rows == 0 ? tensor.span() : rows.rows * RowBytes(tensor);
    // Matrices of two tensors may alternate; then they go together.
    const bool follows =
        !transfer.empty() && transfer.runs.back().shard == tensor.shard &&
        offset <= transfer.runs.back().offset + transfer.runs.back().bytes + kMaxGap;
    if (follows) {
      FileRun& run = transfer.runs.back();
      run.bytes = std::max(run.bytes, offset + bytes - run.offset);
    } else {
      const uint64_t begin = (transfer.memory_bytes + kAlignment - 1) / kAlignment * kAlignment;
      transfer.runs.push_back({tensor.shard, offset, bytes, begin + offset % kAlignment});
    }
    const FileRun& run = transfer.runs.back();
    transfer.memory_bytes = run.destination + run.bytes;
    transfer.tensors.push_back({.tensor = &tensor,
                                .first_row = rows.first_row,
                                .rows = rows.rows == 0 ? tensor.rows : rows.rows,
                                .destination = run.destination + (offset - run.offset)});
  }
  for (const FileRun& run : transfer.runs) transfer.bytes += run.bytes;
  return transfer;
}

}  // namespace gguf_offload
